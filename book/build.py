"""Build the book.

    python book/build.py              # check, execute what changed, build the website
    python book/build.py notebooks    # write notebooks/*.ipynb anew from notebooks/*.md
    python book/build.py picture      # write the README's picture anew from its notebook

People edit and review the Markdown notebooks. The .ipynb files beside them are generated,
without outputs, and committed, so that papermill, Binder and Colab work on a fresh clone.
The website shows what papermill executed, with the parameters' defaults.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks"
EXECUTED = ROOT / "_build" / "executed" / "notebooks"


def generated(source: Path) -> str:
    """The .ipynb text of a .md notebook: the same text for the same input, always."""
    notebook = jupytext.read(source)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return nbformat.writes(notebook) + "\n"


def sources() -> list[Path]:
    return sorted(SOURCES.glob("*.md"))


def stale() -> list[str]:
    """The names of the notebooks whose .ipynb is not what their .md says."""
    names = []
    for source in sources():
        notebook = source.with_suffix(".ipynb")
        if not notebook.is_file() or notebook.read_text(encoding="utf-8") != generated(source):
            names.append(source.stem)
    return names


def fingerprint(notebook: Path) -> str:
    """Changes when the notebook, the package, its data or the pinned versions change."""
    inputs = [notebook, ROOT / "constraints.txt"]
    for folder, pattern in (("nalu", "*.py"), ("data", "*")):
        inputs += sorted((ROOT / folder).rglob(pattern))
    digest = hashlib.sha256(sys.version.encode())
    for path in filter(Path.is_file, inputs):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def execute(name: str) -> str:
    """Run one notebook; it lands in ``EXECUTED`` only when every cell passed."""
    import papermill
    from traitlets.config import Config

    source, target = SOURCES / f"{name}.ipynb", EXECUTED / f"{name}.ipynb"
    mark = fingerprint(source)
    if target.is_file() and nbformat.read(target, 4).metadata.get("fingerprint") == mark:
        return f"{name}: up to date"
    target.parent.mkdir(parents=True, exist_ok=True)
    attempt = target.with_suffix(".running.ipynb")  # stays, to be read, when a cell fails
    with tempfile.TemporaryDirectory() as sockets:
        # Kernels side by side collide on TCP ports, and on the default socket name too.
        link = {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name == "posix" else {}
        papermill.execute_notebook(
            str(source),
            str(attempt),
            cwd=str(SOURCES),
            progress_bar=False,
            execution_timeout=600,
            config=Config(KernelManager=link),
        )
    notebook = nbformat.read(attempt, 4)
    seconds = notebook.metadata.pop("papermill").duration  # the rest is paths and times
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    notebook.metadata["fingerprint"] = mark
    nbformat.write(notebook, target)
    attempt.unlink()
    return f"{name}: executed in {seconds:.0f} s"


def execute_all() -> None:
    cores = os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = "1"  # as many notebooks as cores, each on one
    with ProcessPoolExecutor(min(cores, len(sources()))) as pool:
        for done in as_completed([pool.submit(execute, s.stem) for s in sources()]):
            print(done.result(), flush=True)


def site(folder: Path) -> Path:
    """Build the website below ``folder`` and return its first page. Warnings are errors."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT]
    options = ["-q", "-W", "--keep-going", "-n", "--path-output", folder]
    done = subprocess.run(command + options, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nthe website was not built: see the warnings above")
    return folder / "_build" / "html" / "index.html"


def write_picture() -> None:
    """The README's picture is a figure of an executed notebook."""
    notebook = nbformat.read(EXECUTED / "03-multiplication-unit.ipynb", 4)
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == "fig-basins":
            svg = cell.outputs[0].data["image/svg+xml"]
            (ROOT / "book" / "_static" / "picture.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["all", "notebooks", "picture"], default="all")
    what = parser.parse_args().what
    if what == "picture":
        return write_picture()
    if what == "notebooks":
        for source in sources():
            source.with_suffix(".ipynb").write_text(generated(source), encoding="utf-8")
        return None
    if names := stale():
        sys.exit(
            f"{', '.join(names)}: the .ipynb is not what the .md says. Edit the .md, then run "
            "`make notebooks`, which overwrites the .ipynb"
        )
    execute_all()
    print(f"\nThe book is built. Open {site(ROOT).as_uri()}")


if __name__ == "__main__":
    main()
