"""The notebooks are what their sources say, and papermill runs them with any parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [n.stem for n in NOTEBOOKS]
KINDS = ("int", "float", "str", "bool", "list[int]", "list[float]", "list[str]")
PAPERMILL = Path(sys.executable).with_name("papermill")

# A run of each notebook with every size as small as it can be.
SMALLEST = {
    "01-introduction": {"steps": 10, "runs": 2, "hidden": 2},
    "02-weight-construction": {"initialisations": 100, "steps": 10, "runs": 2},
    "03-multiplication-unit": {
        "epsilon": 0.1,
        "problem": "final",
        "resolution": 5,
        "samples": 100,
        "initialisations": 10,
        "steps": 1,
    },
    "05-simple-multiplication": {
        "models": ["NALU"], "authors": ["NMU"],
        "seeds": 2, "many": 2, "authors_seeds": 2, "rounding_seeds": 1,
        "iterations": 1000, "endings": 1, "live": 1,
    },
    "06-static-function": {
        "operations": ["div"], "multiplying": ["ReLU"], "iterations": 1000, "live": 1000,
        "seeds": 2, "final_seeds": 2, "nau_seeds": 2,
    },
    "07-boundary": {
        "models": ["NAC•"], "input_sizes": [300, 8], "overlap_ratios": [0.3],
        "operation": "add", "protocol": "final", "interpolation": [0.5, 1.0],
        "seeds": 1, "iterations": 1000, "live": 1000,
    },
    "08-what-counts-as-success": {
        "operations": ["add"], "seeds": 2, "iterations": 1000,
        "simple_seeds": 2, "simple_iterations": 1000,
    },
    "09-sequential-mnist": {
        "models": ["LSTM (read-out)"], "sum_models": ["NAC₊"], "seeds": 1, "references": 2,
        "epochs": 0, "longer_epochs": 0, "live_epochs": 0, "example_length": 2,
    },
    "10-how-this-book-computes": {"iterations": 1000, "seconds": 0.01, "numbers": 10000},
    "04-moments": {"samples": 1000, "depth": 1, "width": 1, "initialisations": 10},
    "a1-derivations": {"initialisations": 100},
    "a2-errata": {"samples": 10000},
}  # fmt: skip


def test_there_is_a_notebook_for_every_source():
    assert sorted(s.stem for s in (ROOT / "notebooks").glob("*.md")) == NAMES
    assert sorted(SMALLEST) == NAMES


def test_notebooks_are_what_their_sources_say(build):
    assert build.stale() == [], "run `make notebooks`"


def test_generating_a_notebook_twice_gives_the_same_text(build):
    source = build.sources()[0]
    assert build.generated(source) == build.generated(source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebooks_are_committed_without_outputs(path):
    notebook = nbformat.read(path, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_help_reads_like_documentation(path):
    parameters = papermill.inspect_notebook(str(path))
    assert parameters
    for name, parameter in parameters.items():
        assert parameter["inferred_type_name"] in KINDS, name
        assert len(parameter["help"]) > 10, f"{name} has no explanation"
    tags = [cell.metadata.get("tags", []) for cell in nbformat.read(path, 4).cells]
    assert sum("parameters" in t for t in tags) == 1


def rerun(name: str, tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess, Path]:
    """What a reader types, from a folder of their own."""
    out = tmp_path / "out.ipynb"
    command = [PAPERMILL, ROOT / "notebooks" / f"{name}.ipynb", out, *options]
    cache = {**os.environ, "NALU_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=cache)
    return done, out


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_with_other_parameters(name, tmp_path):
    options = [
        word
        for k, v in SMALLEST[name].items()
        for word in (("-y", f"{k}: {json.dumps(v)}") if isinstance(v, list) else ("-p", k, str(v)))
    ]
    done, out = rerun(name, tmp_path, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    for cell in nbformat.read(out, 4).cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text


def test_a_parameter_changes_what_is_computed(tmp_path):
    """At ε = 0.1 one pair of solutions with w₂ < 0 is left, at 10⁻⁷ there are three."""
    lines = {}
    for epsilon in ("0.1", "1e-7"):
        options = {**SMALLEST["03-multiplication-unit"], "epsilon": epsilon}
        words = [word for k, v in options.items() for word in ("-p", k, str(v))]
        done, out = rerun("03-multiplication-unit", tmp_path, *words)
        assert done.returncode == 0, done.stderr[-3000:]
        (table,) = (
            "".join(output.data["text/markdown"])
            for cell in nbformat.read(out, 4).cells
            for output in cell.get("outputs", [])
            if ":name: tab-solutions" in "".join(output.get("data", {}).get("text/markdown", ""))
        )
        lines[epsilon] = [line for line in table.splitlines() if line.startswith("| NAC•")]
    assert [len(rows) for rows in lines.values()] == [4, 8]


def test_wrong_parameters_are_refused_before_computing(tmp_path):
    given = {"epsilom": "0.1", "resolution": "9.5", "problem": "paper", "steps": "0"}
    options = [word for k, v in given.items() for word in ("-p", k, v)]
    done, out = rerun("03-multiplication-unit", tmp_path, *options)
    assert done.returncode != 0
    for message in (
        "there is no parameter epsilom (did you mean epsilon?), only epsilon, problem,",
        "resolution is 9.5, but must be a whole number",
        "problem is 'paper', but must be one of 'draft', 'final'",
        "steps is 0, but must be a whole number from 1 to",
    ):
        assert message in done.stderr
    computed = [c for c in nbformat.read(out, 4).cells if c.get("execution_count")]
    assert "check_parameters" in computed[-1].source
