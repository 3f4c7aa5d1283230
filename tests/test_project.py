"""The files around the code agree with each other."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert len(pairs) == len({canonicalize_name(name) for name, _ in pairs}), "pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_dependency_is_pinned_to_a_version_it_allows():
    pinned = pins()
    extras = PROJECT["optional-dependencies"].values()
    for text in itertools.chain(PROJECT["dependencies"], *extras):
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} but {version} is pinned"


def test_conda_installs_from_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip"
    assert from_pip == {"pip": ["--constraint constraints.txt", "--editable .[book,test]"]}


def test_readme_ci_and_workflow_run_the_same_commands():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    workflow = (ROOT / ".github/workflows/book.yml").read_text()
    for command in ("make book", "make test"):
        assert command.split()[1] in targets
        assert command in README
        assert command in workflow
    for command in ("make test", "make engines"):
        assert command.split()[1] in targets
        assert command in workflow
        assert command in (ROOT / ".ci/run").read_text()


def test_the_training_loop_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "range(50_000)" in code
    scope = {}
    exec(code.replace("range(50_000)", "range(3)"), scope)
    assert scope["step"] == 2
    units_page = (ROOT / "book/units.md").read_text()
    assert code in units_page, "the README and the page of the units show different loops"


def test_readme_shows_files_that_exist():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_code_is_formatted_and_free_of_lint():
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "nalu", "tests", "book"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_files_import_only_from_their_own_floor_and_below():
    """From the mathematics up to how results look."""
    floors = [
        {"moments", "surfaces", "units"},
        {"tasks"},
        {"training"},
        {"runs", "store", "evaluation", "sequence_evaluation"},
        {"experiments"},
        {"figures", "tables", "published", "parameters", "algebra", "errata"},
    ]
    floor_of = {name: i for i, names in enumerate(floors) for name in names}
    for path in (ROOT / "nalu").rglob("*.py"):
        own = path.relative_to(ROOT / "nalu").parts[0].removesuffix(".py")
        if own not in floor_of:
            continue
        depth = len(path.relative_to(ROOT / "nalu").parts)
        for dots, name in re.findall(r"^from (\.+)(\w+)", path.read_text(), re.MULTILINE):
            if len(dots) == depth and name in floor_of:
                assert floor_of[name] <= floor_of[own], f"{path} imports {name}"
