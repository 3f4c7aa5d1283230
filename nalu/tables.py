"""How tables look, and how a number gets into a sentence."""

from __future__ import annotations

import math
import re
import shlex
from numbers import Integral, Real

import pandas as pd
from IPython.display import display
from myst_nb import glue as _glue
from torch import nn

from .evaluation import RULES, chance_of_fewer, differences, wilson
from .experiments import EXPERIMENTS
from .training.sequence_run import EXACT, LSTMS, SequenceRun
from .units import Recurrent, unit_named

OPERATION_SIGNS = {
    "add": "$a + b$", "sub": "$a - b$", "mul": "$a \\cdot b$",
    "div": "$a / b$", "sqrt": "$\\sqrt{a}$", "square": "$a^2$",
}  # fmt: skip
MEASURES = ("success rate", "solved at, 1000 steps", "sparsity error")  # as columns of tables


def show_table(frame: pd.DataFrame, name: str, caption: str, digits: str = ".3g") -> None:
    """Display a frame as a table that the book numbers, captions and refers to by ``name``.

    The cell needs ``mystnb: {markdown_format: myst}`` in its metadata. Column names and texts
    may hold MyST, such as $x$ for maths; numbers are ``rounded``, all else is as it is.
    """

    def text(cell) -> str:
        number = isinstance(cell, Real) and not isinstance(cell, bool)
        return rounded(cell, digits) if number else str(cell)

    shown = frame.map(text)
    number = re.compile(r"[-−]?[\d,.]+(e[-+]\d+)?|nan|inf")
    numeric = [shown[column].map(number.fullmatch).notna().all() for column in shown]
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
    """A model as the paper's tables call it: NAC₊, NAC•, NALU (separate) …"""
    if model in (*LSTMS, EXACT):
        return model
    layers = [layer.partition(" ") for layer in model.split("-")]  # one, if the model has a name
    return "-".join(
        " ".join(filter(None, [unit_named(name).label, variant])) for name, _, variant in layers
    )


def percent(row) -> str:
    """A success rate, with its interval where there is one: 94 % [88, 97]."""
    text = f"{100 * row.success_rate:.3g} %"
    if math.isnan(getattr(row, "success_rate_low", math.nan)):
        return text
    return f"{text} [{100 * row.success_rate_low:.3g}, {100 * row.success_rate_high:.3g}]"


def measure(row: pd.Series, name: str, scale: float | None = None) -> str:
    """A mean with its interval where there is one, divided by ``scale``, or a dash.

    Without a scale it is written as the paper writes small numbers: 3.0 [2.3, 3.9] ×10⁻⁶.
    """
    if name not in row or math.isnan(row[name]):
        return "—"
    exponent = 0
    if scale is None and row[name] > 0:
        exponent = math.floor(math.log10(row[name]))
        exponent *= exponent < -1
    parts = [row[name], row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)]
    digits = ".3g" if scale else ".1f" if exponent else ".2g"
    value, low, high = (rounded(p / (scale or 10**exponent), digits) for p in parts)
    interval = "" if math.isnan(parts[1]) else f" [{low}, {high}]"
    power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value}{interval}" + (f" ×10{power}" if exponent else "")


def rounded(value: float, digits: str) -> str:
    """A number to so many digits, in thousands of them with commas and not as a power of ten.

    From a million on it is a power of ten; a whole number keeps all of its digits.
    """
    if isinstance(value, Integral):
        return f"{value:,}"
    return f"{float(f'{value:{digits}}'):,g}" if abs(value) >= 100 else f"{value:{digits}}"


def provenance_line(table: pd.DataFrame) -> str:
    """Seeds, steps or epochs, protocol, engine, device and seconds of a sweep's rows."""
    seeds = sorted(table.groupby(["operation", "model"]).seed.nunique().unique())
    protocols = " and ".join(table.protocol.unique())
    column, word = ("epochs",) * 2 if "epochs" in table else ("iterations", "steps")
    steps = sorted({f"{number:,}" for number in table[column]})
    seconds = table.groupby("model").seconds.mean()
    took = " to ".join(dict.fromkeys(rounded(s, ".2g") for s in (seconds.min(), seconds.max())))
    return (
        f"{' or '.join(f'{count:,}' for count in seeds)} seed{'s' * (seeds != [1])} each, "
        f"{' or '.join(steps)} {word}, {protocols} protocol; "
        f"engine {' and '.join(table.engine.unique())} on {' and '.join(table.device.unique())}, "
        f"{took} s a run."
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


def comparison(ours: pd.DataFrame, papers: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of ``evaluation.summary``, and under each the published ones, as text.

    The last column names the measures that differ beyond chance, by ``evaluation.differences``.

    Args:
        papers: rows of ``published.table``, by what they are called.
    """
    rows = []
    keys = ["operation", "model"]
    for _, mine in ours.iterrows():
        name = f"{OPERATION_SIGNS[mine.operation]}, {model_label(mine.model)}"
        rows.append([name, "here", *measures(mine), ""])
        for paper, published in papers.items():
            for _, printed in published[(published[keys] == mine[keys]).all(axis=1)].iterrows():
                rows.append(["", paper, *measures(printed), differing(mine, printed)])
    return pd.DataFrame(rows, columns=["model", "from", *MEASURES, "differs"])


def rates_table(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.summary`` of many runs, and a published rate of fewer beside them."""
    printed = published[["operation", "model", "runs", "success_rate"]]
    pairs = ours.merge(printed, on=["operation", "model"], suffixes=("", "_printed"))
    rows = []
    for _, row in pairs.iterrows():
        rate, runs = row.success_rate_printed, row.runs_printed
        interval = wilson(round(runs * rate), runs)
        rows.append(
            {
                "model": model_label(row.model),
                "runs": row.runs,
                **dict(zip(MEASURES, measures(row), strict=True)),
                f"printed, of {runs} runs": f"{100 * rate:.0f} % "
                f"[{100 * interval.low:.3g}, {100 * interval.high:.3g}]",
                f"as few in {runs}": f"{100 * chance_of_fewer(rate, row.success_rate, runs):.2g} %",
            }
        )
    return pd.DataFrame(rows)


def printed_digits_table(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.summary`` in the units and digits of the draft's Table 1."""
    printed = published.drop(columns="solved_at")  # which is in steps
    pairs = ours.merge(printed, on=["operation", "model"], suffixes=("", "_printed"))
    converged_at = ((pairs.solved_at + 1000) / 10, pairs.solved_at_printed)
    columns = {
        "success rate": (pairs.success_rate, pairs.success_rate_printed, "{:.0%}"),
        "converged at": (*converged_at, "{:.0f}"),
        "sparsity error": (pairs.sparsity_error, pairs.sparsity_error_printed, "{:.1e}"),
    }
    table = {"model": pairs.model.map(model_label)}
    for name, (here, there, digits) in columns.items():
        table[name] = here.map(digits.format)
        table[f"{name}, printed"] = there.map(digits.format)
    return pd.DataFrame(table)


def engines_table(ours: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The same runs in two sweeps, each by one engine: a row a model, with what rounding decides.

    ``apart`` counts the runs that only one of them solves, ``later or sooner`` those that both
    solve, at different evaluations.
    """
    both = ours.merge(other, on=["operation", "model", "seed"], suffixes=("", "_other"))
    here, there = ours.engine.iloc[0], other.engine.iloc[0]
    rows = []
    for model, group in both.groupby("model", sort=False):
        means = {here: group.solved_at.mean() / 1000, there: group.solved_at_other.mean() / 1000}
        alike = group.solved & group.solved_other
        rows.append(
            {
                "model": model_label(model),
                "runs": len(group),
                f"solved, {here}": group.solved.sum(),
                f"solved, {there}": group.solved_other.sum(),
                "apart": (group.solved != group.solved_other).sum(),
                "later or sooner": (alike & (group.solved_at != group.solved_at_other)).sum(),
                **{f"solved at, 1000 steps, {name}": mean for name, mean in means.items()},
            }
        )
    return pd.DataFrame(rows)


def beside_recorded(now: pd.DataFrame, recorded: pd.DataFrame) -> pd.DataFrame:
    """Rows of a sweep trained now, and where the same runs were solved in another sweep."""
    keys = ["operation", "model", "seed"]
    both = now.merge(recorded[[*keys, "solved_at"]], "left", keys, suffixes=("", "_recorded"))
    asked = both[keys].apply(tuple, axis=1).isin(recorded[keys].apply(tuple, axis=1))

    def steps(values):
        return values.map(lambda at: "not solved" if math.isnan(at) else f"{at:,.0f}")

    return pd.DataFrame(
        {
            "operation": both.operation.map(OPERATION_SIGNS),
            "model": both.model.map(model_label),
            "seed": both.seed,
            "solved at": steps(both.solved_at),
            "recorded": steps(both.solved_at_recorded).where(asked, "not asked for"),
            "sparsity error": both.sparsity_error,
            "seconds": both.seconds,
        }
    )


def bench_table(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``bench.rows`` by task and model: µs a step, in brackets times the plain loop."""
    rows = []
    for (task, model), group in table.groupby(["task", "model"], sort=False):
        cells = {
            engine: f"{rounded(step, '.3g')} ({rounded(times, '.3g')})"
            for engine, step, times in zip(
                group.engine, group["µs a step"], group["times plain"], strict=True
            )
        }
        one_core = group[group.engine == "cpu, one core"].iloc[0]
        floor = {"floor": one_core["floor, µs"]}
        floor["one core / floor"] = one_core["µs a step"] / floor["floor"]
        rows.append({"task": task, "model": model_label(model), **cells, **floor})
    return pd.DataFrame(rows)


def sequence_table(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of a sweep of sequential MNIST: where each is selected, and at how many lengths solved.

    Args:
        scores: of ``sequence_evaluation.sequence_scores`` for these runs.
    """
    solved = scores.groupby("key").solved.agg(["sum", "size"])
    rows = []
    for run in table.itertuples():
        lengths = solved.loc[run.key]
        rows.append(
            {
                "model": model_label(run.model),
                "seed": run.seed,
                "selected at epoch": run.best_epoch,
                "validation error": run.validation_error,
                "sparsity error": measure(pd.Series(run._asdict()), "sparsity_error"),
                "lengths solved": f"{lengths['sum']} of {lengths['size']}",
                "minutes": run.seconds / 60,
            }
        )
    return pd.DataFrame(rows)


def weights_table(
    before: dict[SequenceRun, nn.Module],
    after: dict[SequenceRun, nn.Module],
    curves: pd.DataFrame,
) -> pd.DataFrame:
    """What runs of sequential MNIST have learned: a row a run whose unit has weights.

    Args:
        before: their models before training.
        after: those at its end, as far as they are known.
        curves: of ``nalu.learning_curves``.
    """
    labels = ["operation", "model", "seed"]
    ends = curves.groupby(labels).last()
    rows = []
    for run, model in before.items():
        if not isinstance(model.accumulator, Recurrent):
            continue
        names = run.task.operation, run.model, run.seed
        row = dict(zip(labels, names, strict=True)) | {"model": model_label(run.model)}
        for when, models in (("before", before), ("after", after)):
            row[f"weights {when}"] = "not kept"
            if run in models:
                weights = models[run].accumulator.unit.weight.flatten().tolist()
                row[f"weights {when}"] = ", ".join(rounded(w, ".3g") for w in weights)
        end = ends.loc[names]
        row["sparsity error"] = end.sparsity_error
        nine = end.filter(regex="^digit_9").dropna()
        rows.append({**row, "a 9 is read as": ", ".join(rounded(x, ".3g") for x in nine)})
    return pd.DataFrame(rows)


def cut_short_table(sweeps: dict[str, pd.DataFrame], published: pd.DataFrame) -> pd.DataFrame:
    """When the runs of a model are solved, in sweeps that are cut short and as published.

    A row for each sweep and operation, in thousand steps.

    Args:
        sweeps: by whose random numbers they have.
    """
    keys = ["operation", "model"]
    rows = []

    def add(operation, model, numbers, runs, cut, solved, *at):
        name = f"{OPERATION_SIGNS[operation]}, {model_label(model)}"
        times = ["not known" if math.isnan(step) else f"{step / 1000:.1f}" for step in at]
        rows.append([name, numbers, runs, cut, int(solved), *times])

    for numbers, sweep in sweeps.items():
        for names, group in sweep.groupby(keys, sort=False):
            cut, at = group.iterations.max() / 1000, group.solved_at.agg(["mean", "median", "max"])
            add(*names, numbers, len(group), f"{cut:,.0f}", group.solved.sum(), *at)
    for row in pd.concat(sweeps.values())[keys].drop_duplicates().merge(published).itertuples():
        solved = round(row.runs * row.success_rate)
        at = row.solved_at, row.solved_at_median, math.nan
        add(row.operation, row.model, "the authors', in the paper", row.runs, "not", solved, *at)
    columns = ["random numbers", "runs", "cut short at", "solved", "mean", "median", "last"]
    return pd.DataFrame(rows, columns=["model", *columns])


def boundary_table(ours: pd.DataFrame, published: pd.DataFrame, parameter: str) -> pd.DataFrame:
    """Rows of ``evaluation.summary`` by a parameter and model, beside those of a figure."""
    rows = []
    keys = [parameter, "model"]
    for _, mine in ours.iterrows():
        cells, differ = measures(mine), ""
        for _, printed in published[(published[keys] == mine[keys]).all(axis=1)].iterrows():
            differ = differing(mine, printed)
            pairs = zip(cells, measures(printed), strict=True)
            cells = [f"{here} ({there})" for here, there in pairs]
        rows.append([f"{mine[parameter]:g}", model_label(mine.model), *cells, differ])
    columns = [parameter.replace("_", " "), "model", "success rate (draft)"]
    columns += ["solved at, 1000 steps (draft)", "sparsity error (draft)", "differs"]
    return pd.DataFrame(rows, columns=columns)


def rule_errors_table(rates: pd.DataFrame, parameter: str) -> pd.DataFrame:
    """Rows of ``evaluation.success_by_rule`` of one model by a parameter, a column a rule.

    A cell has the success rate with its interval, and in brackets the error that the rule reads
    over its limit.
    """
    rows = []
    for value, group in rates.groupby(parameter, sort=False):
        cells = [
            f"{percent(row)} ({rounded(row.error, '.2g')} / {rounded(row.limit, '.2g')})"
            for row in group.itertuples()
        ]
        rows.append([f"{value:g}", *cells])
    return pd.DataFrame(rows, columns=[parameter.replace("_", " "), *(r.words for r in RULES)])


def rules_table(rates: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.success_by_rule``, a column a rule, with what was printed then.

    Args:
        printed: of ``published.history``.
    """
    keys = ["operation", "model", "date"]
    known = printed.set_index(keys).success_rate.to_dict()
    rows = []
    for (operation, model), group in rates.groupby(keys[:2], sort=False):
        cells = [f"{OPERATION_SIGNS[operation]}, {model_label(model)}"]
        for row in group.itertuples():
            there = known.get((operation, model, row.date))
            cell = percent(row)
            cells.append(cell if there is None else f"{cell} ({100 * there:.0f} %)")
        rows.append(cells)
    return pd.DataFrame(rows, columns=["model", *(f"{rule.date}: {rule.words}" for rule in RULES)])


def choices_table(rates: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluation.success_by_choice`` in words."""
    words = {name: (100 * rates[name]).map("{:.0f} %".format) for name in rates.columns[1:]}
    table = pd.DataFrame({"error": rates.index, "median": rates["median"].to_numpy()})
    return table.assign(**{f"below {name}": share.to_numpy() for name, share in words.items()})


def differing(ours: pd.Series, published: pd.Series) -> str:
    """The measures that differ beyond chance, in words."""
    differ = differences(ours, published)
    return ", ".join(name for name in differ if differ[name]) or "nothing"


def measures(row: pd.Series) -> list[str]:
    """The three measures of a row of ``evaluation.summary`` as text."""
    return [percent(row), measure(row, "solved_at", 1000), measure(row, "sparsity_error")]
