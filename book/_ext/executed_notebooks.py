"""Show what papermill executed, adapted to the website.

Sphinx reads ``notebooks/NAME.ipynb``, which has no outputs. Before it is parsed its text is
swapped for ``_build/executed/notebooks/NAME.ipynb``, so that document names, edit links and
the download button keep pointing at files that are in git. On the way figures learn both
colour schemes, and Vega-Lite charts become a placeholder that ``book.js`` fills.
"""

import html
import json
from pathlib import Path

from sphinx.util import logging

from nalu.figures import INK, PAPER

logger = logging.getLogger(__name__)

# An SVG inside <img> resolves this query by the colour scheme of the page around it.
SCHEMES = "<style>svg{color:#1f2328}@media (prefers-color-scheme:dark){svg{color:#d6dde4}}</style>"


def adaptive_svg(svg: str) -> str:
    """Ink follows the colour scheme, and paper becomes transparent."""
    svg = svg.replace(INK, "currentColor").replace(f"fill: {PAPER}", "fill: none")
    return svg.replace("<defs>", f"{SCHEMES}<defs>", 1)


def chart_placeholder(spec: dict) -> str:
    """Where ``book.js`` draws the chart, with its description for screen readers."""
    label = html.escape(spec["description"], quote=True)
    data = json.dumps(spec, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<div class="live-chart" role="group" aria-label="{label}">'
        f'<script type="application/json">{data}</script>'
        "<noscript>This chart needs JavaScript.</noscript></div>"
    )


def adapt(output: dict) -> None:
    """Change one output of a cell, in place."""
    data = output.get("data", {})
    if "image/svg+xml" in data:
        data["image/svg+xml"] = adaptive_svg("".join(data["image/svg+xml"]))
    for kind in [k for k in data if k.startswith("application/vnd.vegalite.")]:
        output["data"] = {"text/html": chart_placeholder(data[kind])}


def use_executed(app, docname, source):
    original = Path(app.env.doc2path(docname))
    if original.suffix != ".ipynb":
        return
    executed = Path(app.srcdir, "_build", "executed", f"{docname}.ipynb")
    app.env.note_dependency(str(executed))
    if not executed.is_file():
        logger.warning("not executed yet: run `make book`", location=docname)
        return
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            adapt(output)
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", use_executed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
