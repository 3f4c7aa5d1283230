"""How tables look, and how a number gets into a sentence."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real

import pandas as pd
from IPython.display import display
from myst_nb import glue as _glue
from torch import Tensor, nn

from .evaluation import RULES, agreement, chance_of_fewer, summary, wilson
from .experiments import EXPERIMENTS
from .training.sequence_run import EXACT, LSTMS, SequenceRun
from .units import Recurrent, unit_named

OPERATION_SIGNS = {
    "add": "$a + b$", "sub": "$a - b$", "mul": "$a \\cdot b$",
    "div": "$a / b$", "sqrt": "$\\sqrt{a}$", "square": "$a^2$",
}  # fmt: skip
KEYS = ["operation", "model"]  # what tells the rows of a table apart, for the most part


def show_table(frame: pd.DataFrame, name: str, caption: str, digits: str = ".3g") -> None:
    """Display a frame as a table that the book numbers, captions and refers to by ``name``.

    The cell needs ``mystnb: {markdown_format: myst}`` in its metadata. Column names and texts
    may hold MyST, such as $x$ for maths; numbers are ``rounded``, all else is as it is.
    """

    def text(cell) -> str:
        number = isinstance(cell, Real) and not isinstance(cell, bool)
        return rounded(cell, digits) if number else str(cell)

    shown = frame.map(text)
    number = r"[-−]?[\d,.]+(e[-+]\d+)?|nan|inf|—"
    numeric = [shown[column].astype(str).str.fullmatch(number).all() for column in shown]
    sides = ["right" if right else "left" for right in numeric]
    rows = shown.to_markdown(index=False, disable_numparse=True, colalign=sides)
    display(
        {
            "text/markdown": f":::{{table}} {caption}\n:name: {name}\n\n{rows}\n:::\n",
            "text/html": shown.to_html(index=False),
            "text/plain": shown.to_string(index=False),
        },
        raw=True,
    )


def glue(name: str, value: float | int) -> None:
    """Keep a number for the text of the book: {glue:text}`name:.2f` writes it there."""
    _glue(name, int(value) if isinstance(value, Integral) else float(value), display=False)


def model_label(model: str) -> str:
    """A model as the paper's tables call it: NAC₊, NAC•, NALU (separate) …

    One without a name of its own is called by its layers: NAU → NAC•.
    """
    if model in (*LSTMS, EXACT):
        return model
    layers = [layer.split(" ", 1) for layer in model.split(" → ")]  # one, if it has a name
    return " → ".join(" ".join([unit_named(name).label, *variant]) for name, *variant in layers)


def in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with models and operations as the paper writes them, and names of columns in words."""
    write = {"model": model_label, "operation": lambda name: OPERATION_SIGNS.get(name, name)}
    written = {name: rows[name].map(text) for name, text in write.items() if name in rows}
    return rows.assign(**written).rename(columns=lambda name: name.replace("_", " "))


def with_operation(rows: pd.DataFrame) -> pd.Series:
    """What a row is of, where a table has several operations: $a - b$, NAU."""
    return rows.operation.map(OPERATION_SIGNS) + ", " + rows.model.map(model_label)


def percent(rate: float, low: float = math.nan, high: float = math.nan) -> str:
    """A success rate, with its interval where there is one: 94 % [88, 97]."""
    interval = "" if math.isnan(low) else f" [{100 * low:.3g}, {100 * high:.3g}]"
    return f"{100 * rate:.3g} %{interval}"


def measure(mean: float, low: float = math.nan, high: float = math.nan, scale: float = 0) -> str:
    """A mean with its interval where there is one, divided by ``scale``, or a dash.

    At a scale of 0 it is written as the paper writes small numbers: 3.0 [2.3, 3.9] ×10⁻⁶.
    """
    if math.isnan(mean):
        return "—"
    exponent = math.floor(math.log10(mean)) if mean > 0 and not scale else 0
    exponent *= exponent < -1
    digits = ".3g" if scale else ".1f" if exponent else ".2g"
    mean, *ends = (rounded(each / (scale or 10**exponent), digits) for each in (mean, low, high))
    interval = "" if math.isnan(low) else f" [{', '.join(ends)}]"
    power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mean}{interval}" + (f" ×10{power}" if exponent else "")


def estimates(rows: pd.DataFrame, name: str, write: Callable[..., str]) -> pd.Series:
    """A column with the ends of its intervals, as far as there are any, as text."""
    ends = rows.reindex(columns=[name, f"{name}_low", f"{name}_high"])
    return pd.Series([write(*row) for row in ends.itertuples(index=False)], rows.index, str)


def measures(rows: pd.DataFrame) -> pd.DataFrame:
    """The three measures of rows of ``evaluation.summary`` as text, under the same index."""
    return pd.DataFrame(
        {
            "success rate": estimates(rows, "success_rate", percent),
            "solved at, 1000 steps": estimates(rows, "solved_at", partial(measure, scale=1000)),
            "sparsity error": estimates(rows, "sparsity_error", measure),
        }
    )


def differing(ours: pd.DataFrame, published: pd.DataFrame, by: list[str]) -> pd.Series:
    """The measures that differ beyond chance, in words, of each group that both have."""
    differ = agreement(ours, published, by).fillna(False)
    words = [", ".join(differ.columns[row]) or "nothing" for row in differ.to_numpy(bool)]
    return pd.Series(words, differ.index, str, "differs")


def rounded(value: float, digits: str) -> str:
    """A number to so many digits, in thousands of them with commas and not as a power of ten.

    From a million on it is a power of ten; a whole number keeps all of its digits.
    """
    if isinstance(value, Integral):
        return f"{value:,}"
    return f"{float(f'{value:{digits}}'):,g}" if abs(value) >= 100 else f"{value:{digits}}"


def provenance_line(table: pd.DataFrame) -> str:
    """Seeds, steps or epochs, protocol, engine, device and seconds of a sweep's rows."""
    seeds = sorted(table.groupby(KEYS).seed.nunique().unique())
    counts = " or ".join(f"{count:,}" for count in seeds)
    column, word = ("epochs", "epochs") if "epochs" in table else ("iterations", "steps")
    steps = " or ".join(sorted({f"{number:,}" for number in table[column]}))
    seconds = table.groupby("model").seconds.mean()
    took = " to ".join(dict.fromkeys(rounded(s, ".2g") for s in (seconds.min(), seconds.max())))
    by = {name: " and ".join(table[name].unique()) for name in ("protocol", "engine", "device")}
    return (
        f"{counts} seed{'s' * (seeds != [1])} each, {steps} {word}, {by['protocol']} protocol; "
        f"engine {by['engine']} on {by['device']}, {took} s a run."
    )


def recompute(experiment: str, seeds: int, **options) -> str:
    """The shortest command that computes the runs of a table, for its caption.

    Args:
        experiment: the one of ``nalu.experiments``.
        seeds: how many, from 0 on.
        options: others of ``python -m nalu sweep``, with ``_`` for ``-``; those without which the
            runs would be the same are left out.
    """
    runs = EXPERIMENTS[experiment]
    given = {name: value for name, value in options.items() if value is not None}
    for name in [name for name in given if name != "parameter"]:  # which values need
        fewer = {other: given[other] for other in given if other != name}
        if runs(seeds=[0], **fewer) == runs(seeds=[0], **given):
            given = fewer
    words = ["python", "-m", "nalu", "sweep", experiment]
    for name, value in {**given, "seeds": f"0:{seeds}"}.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        option = f"--{name.replace('_', '-')}"
        words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return f"Recompute: `{shlex.join(words)}`."


def caption(finding: str, table: pd.DataFrame, *commands: str) -> str:
    """What a table shows, where its runs come from, and how to compute them again."""
    return " ".join([finding, provenance_line(table), *commands])


def comparison(ours: pd.DataFrame, papers: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of ``evaluation.summary``, and under each the published ones, as text.

    The last column names the measures that differ beyond chance, by ``evaluation.differences``.

    Args:
        papers: rows of ``published.table``, by what they are called.
    """
    parts = [ours.assign(source="here", differs="")]
    for paper, published in papers.items():
        differs = differing(ours, published, KEYS).reset_index()
        parts.append(published.merge(differs, on=KEYS).assign(source=paper))
    in_order = pd.MultiIndex.from_frame(ours[KEYS])
    rows = pd.concat(parts).set_index(KEYS).loc[in_order].reset_index()
    names = with_operation(rows).where(rows.source == "here", "")
    table = pd.DataFrame({"model": names, "from": rows.source})
    return table.join(measures(rows)).assign(differs=rows.differs)


def rates_table(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.summary`` of many runs, and a published rate of fewer beside them."""
    of = int(published.runs.iloc[0])
    pairs = ours.merge(published[[*KEYS, "success_rate"]], on=KEYS, suffixes=("", "_printed"))
    rates = list(zip(pairs.success_rate, pairs.success_rate_printed, strict=True))
    printed = [percent(*wilson(round(of * there), of)) for _, there in rates]
    as_few = [f"{100 * chance_of_fewer(there, here, of):.2g} %" for here, there in rates]
    table = in_words(pairs[["model", "runs"]]).join(measures(pairs))
    return table.assign(**{f"printed, of {of} runs": printed, f"as few in {of}": as_few})


def printed_digits_table(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.summary`` in the units and digits of the draft's Table 1."""
    ours = ours.assign(converged_at=(ours.solved_at + 1000) / 10)
    published = published.rename(columns={"solved_at_printed": "converged_at"})
    pairs = ours.merge(published, on=KEYS, suffixes=("", ", printed"))
    digits = {"success_rate": "{:.0%}", "converged_at": "{:.0f}", "sparsity_error": "{:.1e}"}
    columns = {
        name: pairs[name].map(digits[column].format)
        for column in digits
        for name in (column, f"{column}, printed")
    }
    return in_words(pairs[["model"]].assign(**columns))


def engines_table(ours: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The same runs in two sweeps, each by one engine: a row a model, with what rounding decides.

    ``apart`` counts the runs that only one of them solves, ``later or sooner`` those that both
    solve, at different evaluations.
    """
    here, there = ours.engine.iloc[0], other.engine.iloc[0]
    both = ours.merge(other, on=[*KEYS, "seed"], suffixes=("", "_other"))
    one, two, at = both.solved, both.solved_other, "solved at, 1000 steps, "
    moved = one & two & (both.solved_at != both.solved_at_other)
    counts = {"runs": 1, f"solved, {here}": one, f"solved, {there}": two}
    counts |= {"apart": one != two, "later or sooner": moved}
    means = {f"{at}{here}": both.solved_at / 1000, f"{at}{there}": both.solved_at_other / 1000}
    how = dict.fromkeys(counts, "sum") | dict.fromkeys(means, "mean")
    groups = both[["model"]].assign(**counts, **means).groupby("model", sort=False)
    return in_words(groups.agg(how).reset_index())


def beside_recorded(now: pd.DataFrame, recorded: pd.DataFrame) -> pd.DataFrame:
    """Rows of a sweep trained now, and where the same runs were solved in another sweep."""
    keys = [*KEYS, "seed"]
    there = recorded[keys].assign(recorded=recorded.solved_at)
    rows = now.merge(there, "left", keys, indicator="asked")
    for name in ("solved_at", "recorded"):
        rows[name] = rows[name].map("{:,.0f}".format).replace("nan", "not solved")
    rows["recorded"] = rows.recorded.where(rows.asked == "both", "not asked for")
    return in_words(rows[[*keys, "solved_at", "recorded", "sparsity_error", "seconds"]])


def pivoted(rows: pd.DataFrame, by: list[str], column: str, cells: pd.Series) -> pd.DataFrame:
    """Cells of rows, one line for each group, and each value of a column a column of its own."""
    wide = rows.assign(cell=cells).pivot(index=by, columns=column, values="cell")
    lines = rows.drop_duplicates(by).set_index(by).index  # in the order they come in
    return wide.loc[lines, rows[column].unique()].rename_axis(columns=None)


def bench_table(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``bench.rows`` by task and model: µs a step, in brackets times the plain loop."""
    by = ["task", "model"]
    cells = [
        table[name].map(partial(rounded, digits=".3g")) for name in ("µs a step", "times plain")
    ]
    one_core = table[table.engine == "cpu, one core"].set_index(by)
    floor, step = one_core["floor, µs"], one_core["µs a step"]
    wide = pivoted(table, by, "engine", cells[0] + " (" + cells[1] + ")")
    table = wide.assign(**{"floor": floor, "one core / floor": step / floor})
    return in_words(table.reset_index())


def sequence_table(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of a sweep of sequential MNIST: where each is selected, and at how many lengths solved.

    Args:
        scores: of ``sequence_evaluation.sequence_scores`` for these runs.
    """
    solved = scores.groupby("key").solved.agg(lambda those: f"{those.sum()} of {len(those)}")
    rows = table[["model", "seed"]].assign(
        selected_at_epoch=table.best_epoch,
        validation_error=table.validation_error,
        sparsity_error=table.sparsity_error.map(measure),
        lengths_solved=table.key.map(solved),
        minutes=table.seconds / 60,
    )
    return in_words(rows)


def weights_table(
    before: dict[SequenceRun, nn.Module], after: dict[SequenceRun, nn.Module], curves: pd.DataFrame
) -> pd.DataFrame:
    """What runs of sequential MNIST have learned: a row a run whose unit has weights.

    Args:
        before: their models before training.
        after: those at its end, as far as they are known.
        curves: of ``nalu.learning_curves``.
    """
    keys = [*KEYS, "seed"]
    runs = [run for run, model in before.items() if isinstance(model.accumulator, Recurrent)]
    rows = pd.DataFrame([run.labels() for run in runs], columns=keys)

    def numbers(values: Tensor | pd.Series) -> str:
        return ", ".join(rounded(value, ".3g") for value in values.tolist())

    for when, models in (("before", before), ("after", after)):
        units = [run in models and models[run].accumulator.unit for run in runs]
        texts = [numbers(unit.weight.flatten()) if unit else "not kept" for unit in units]
        rows[f"weights {when}"] = texts
    ends = rows.merge(curves.groupby(keys).last().reset_index(), "left", keys)
    rows["sparsity error"] = ends.sparsity_error
    nines = ends.filter(regex="^digit_9").iterrows()
    return in_words(rows.assign(**{"a 9 is read as": [numbers(row.dropna()) for _, row in nines]}))


def cut_short_table(sweeps: dict[str, pd.DataFrame], published: pd.DataFrame) -> pd.DataFrame:
    """When the runs of a model are solved, in sweeps that are cut short and as published.

    A row for each sweep and operation, in thousand steps.

    Args:
        sweeps: by whose random numbers they have.
    """
    by = ["random numbers", *KEYS]
    runs = pd.concat(sweeps, names=by[:1]).reset_index(by[0])
    last = runs.groupby(by, as_index=False).solved_at.max()
    ours = summary(runs, by).merge(last, on=by, suffixes=("", "_last"))
    theirs = ours[KEYS].drop_duplicates().merge(published)
    theirs[by[0]] = "the authors', in the paper"
    rows = pd.concat([ours, theirs], ignore_index=True)
    steps = (rows.iterations / 1000).map("{:,.0f}".format).replace("nan", "not")
    solved = (rows.runs * rows.success_rate).round().astype(int)
    table = rows[["model", by[0], "runs"]].assign(**{"cut short at": steps, "solved": solved})
    for name, column in (("mean", ""), ("median", "_median"), ("last", "_last")):
        at = rows[f"solved_at{column}"] / 1000
        table[name] = at.map("{:.1f}".format).replace("nan", "not known")
    return table.assign(model=with_operation(rows))


def boundary_table(ours: pd.DataFrame, published: pd.DataFrame, parameter: str) -> pd.DataFrame:
    """Rows of ``evaluation.summary`` by a parameter and model, beside those of a figure."""
    by = [parameter, "model"]
    here, there = (measures(rows.set_index(by)) for rows in (ours, published))
    cells = (here + " (" + there + ")").reindex(here.index).fillna(here)
    differs = differing(ours, published, by).reindex(here.index, fill_value="")
    return in_words(cells.add_suffix(" (draft)").join(differs).reset_index())


def rule_errors_table(rates: pd.DataFrame, parameter: str) -> pd.DataFrame:
    """Rows of ``evaluation.success_by_rule`` of one model by a parameter, a column a rule.

    A cell has the success rate with its interval, and in brackets the error that the rule reads
    over its limit.
    """
    two_digits = partial(rounded, digits=".2g")
    error, limit = rates.error.map(two_digits), rates.limit.map(two_digits)
    cells = estimates(rates, "success_rate", percent) + " (" + error + " / " + limit + ")"
    table = pivoted(rates, [parameter], "date", cells).reset_index()
    return in_words(table.rename(columns={rule.date: rule.words for rule in RULES}))


def rules_table(rates: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.success_by_rule``, a column a rule, with what was printed then.

    Args:
        printed: of ``published.history``.
    """
    keys = [*KEYS, "date"]
    there = rates[keys].merge(printed, "left", keys).success_rate.set_axis(rates.index)
    known = (100 * there).map(" ({:.0f} %)".format).where(there.notna(), "")
    cells = estimates(rates, "success_rate", percent) + known
    table = pivoted(rates, KEYS, "date", cells).reset_index()
    names = {rule.date: f"{rule.date}: {rule.words}" for rule in RULES}
    return table.assign(model=with_operation(table)).drop(columns="operation").rename(columns=names)


def choices_table(rates: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.success_by_choice`` in words."""
    shares = (100 * rates.drop(columns="median")).map("{:.0f} %".format).add_prefix("below ")
    return rates[["median"]].join(shares).rename_axis("error").reset_index()
