"""The numbers that the paper printed, to put beside computed ones (``data/reference``)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
SEEDS = {  # how many runs a published rate is of
    ("draft", "Table 1"): 100, ("draft", "Table 2"): 10,
    ("final", "Table 1"): 100, ("final", "Table 2"): 100, ("final, corrected", "Table 2"): 100,
    ("draft", "Figure 4"): 10, ("draft", "Figure 5"): 10, ("draft", "Figure 6"): 10,
    ("final", "product"): 10, ("final", "product without R_z"): 10,
    ("final", "sum"): 10, ("final", "sum without R_z"): 10,
}  # fmt: skip
FACTORS = {"Table 1": 10}  # the export multiplied by 100 what was 1000 steps apart
EVALUATE_EVERY = 1_000


def table(name: str, paper: str = "draft") -> pd.DataFrame:
    """A table, "Table 1" or "Table 2": a row an operation and model.

    Columns are called as those of ``nalu.evaluation.summary``, as far as the table has them, and
    NaN in a row where it has nothing. "solved at" is in real steps: the draft's numbers, which
    are one evaluation too large and in Table 1 ten times too small, stand in
    ``solved_at_printed``.

    Args:
        paper: "draft", "final", or "final, corrected" (``data/reference/README.md``).

    Raises:
        ValueError: there is no such table.
    """
    wide = _wide("tables.csv", "table", name, paper, ["operation", "model"])
    if paper == "draft":
        wide["solved_at_printed"] = wide.solved_at
        wide["solved_at"] = wide.solved_at * FACTORS.get(name, 1) - EVALUATE_EVERY
    return wide


def figure(name: str, paper: str = "draft") -> pd.DataFrame:
    """A figure: a row a model and value of what it varies, in a column of that name.

    Other columns are those of ``table``; steps are real ones. Of the draft, "Figure 4" to
    "Figure 6" of section 3.1.3, whose bars are quantiles over solved seeds and no intervals:
    ``solved_at_q10``, ``solved_at_q90``, and so for the sparsity error. Of the final paper,
    sequential MNIST over the length: "product" and "sum", and both "without R_z", with 95 %
    intervals.

    Raises:
        ValueError: there is no such figure.
    """
    wide = _wide("figures.csv", "figure", name, paper, ["parameter", "x", "model"])
    steps = [column for column in wide if column.startswith("solved_at")]
    if paper == "draft":
        wide[steps] -= EVALUATE_EVERY
        quantiles = {"_low": "_q10", "_high": "_q90"}
        wide.columns = wide.columns.str.replace("_low|_high", lambda m: quantiles[m[0]], regex=True)
    return wide.rename(columns={"x": wide.parameter[0]}).drop(columns="parameter")


def history(name: str) -> pd.DataFrame:
    """Success rates of a table in every version of the paper, one row each, by date.

    Raises:
        ValueError: there is no such table.
    """
    rows = pd.read_csv(REFERENCE / "history.csv")
    known = rows.table.unique()
    if name not in known:
        raise ValueError(f"there is no history of {name!r}, only of {', '.join(known)}")
    return rows[rows.table == name].drop(columns="table").reset_index(drop=True)


def _wide(file: str, kind: str, name: str, paper: str, keys: list[str]) -> pd.DataFrame:
    rows = pd.read_csv(REFERENCE / file)
    here = rows[(rows[kind] == name) & (rows.paper == paper)]
    if here.empty:
        known = sorted({f"{n} of {p}" for n, p in zip(rows[kind], rows.paper, strict=True)})
        raise ValueError(f"there is no {name!r} of {paper!r}, only {'; '.join(known)}")
    wide = here.pivot(index=keys, columns="measure", values=["value", "low", "high"])
    wide.columns = [name + {"value": ""}.get(end, f"_{end}") for end, name in wide.columns]
    table = here[keys].drop_duplicates().merge(wide.reset_index(), on=keys)
    return table.dropna(axis=1, how="all").assign(runs=SEEDS[paper, name])
