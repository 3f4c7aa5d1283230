"""How tables look, and how a number gets into a sentence."""

from __future__ import annotations

import pandas as pd
from IPython.display import display
from myst_nb import glue as _glue


def show_table(frame: pd.DataFrame, name: str, caption: str, floatfmt: str = ".3g") -> None:
    """Display a frame as a table that the book numbers, captions and refers to by ``name``.

    The cell needs ``mystnb: {markdown_format: myst}`` in its metadata. Column names and texts
    may hold MyST, such as $x$ for maths.
    """
    rows = frame.to_markdown(index=False, floatfmt=floatfmt)
    display(
        {
            "text/markdown": f":::{{table}} {caption}\n:name: {name}\n\n{rows}\n:::\n",
            "text/html": frame.to_html(index=False, float_format=f"{{:{floatfmt}}}".format),
            "text/plain": frame.to_string(index=False),
        },
        raw=True,
    )


def glue(name: str, value: float | int) -> None:
    """Keep a number for the text of the book: {glue:text}`name:.2f` writes it there."""
    _glue(name, int(value) if isinstance(value, int) else float(value), display=False)
