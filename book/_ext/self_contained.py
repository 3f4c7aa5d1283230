"""Serve MathJax and Vega from the site itself, and keep unused scripts out of it."""

import importlib.util
import shutil
from pathlib import Path

import vl_convert

MATHJAX = [  # of the 24 MB in the package: TeX input, CHTML output, fonts, explorer
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2",
    "input/tex/extensions",
    "a11y",
    "sre/mathmaps/en.json",
    "sre/mathmaps/base.json",
    "sre/mathmaps/nemeth.json",
]


def copy_mathjax(static: Path) -> None:
    package = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
    for name in MATHJAX:
        source, target = Path(package, "static", "mathjax", name), static / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def write_vega(static: Path) -> None:
    bundle = vl_convert.javascript_bundle(vl_version="6.4")
    # Its short names (`_`, `t`, ...) would collide with the theme's if they were global.
    (static / "vega.js").write_text(f"(() => {{{bundle}}})();\n", encoding="utf-8")


def add_assets(app, exception):
    if exception is None and app.builder.format == "html":
        static = Path(app.outdir, "_static")
        if not (static / "vega.js").exists():
            copy_mathjax(static)
            write_vega(static)


def drop_thebe(app, pagename, templatename, context, doctree):
    """sphinx-thebe would load a script from another host on every page, twice."""
    scripts = context.get("script_files", [])
    scripts[:] = [s for s in scripts if not is_thebe(s)]


def is_thebe(script) -> bool:
    body = getattr(script, "attributes", {}).get("body") or ""
    return "thebe" in f"{body} {getattr(script, 'filename', '')}".lower()


def setup(app):
    app.connect("build-finished", add_assets)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
