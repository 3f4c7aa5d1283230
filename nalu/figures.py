"""How figures look: one style, and the figures of the paper."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor

from .tables import OPERATION_SIGNS, model_label, rounded
from .tasks.arithmetic import Arithmetic
from .units import MODELS, Constrained, Model

# An almost black ink on an almost white paper. That is what figures look like in a notebook;
# the website swaps the two for colours that follow the reader's light or dark theme.
INK, PAPER = "#010203", "#fcfdfe"


def use_book_style() -> None:
    """Apply the book's style to all figures of this notebook, drawn as reproducible SVG."""
    inked = [
        "text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color",
        "ytick.color", "xtick.labelcolor", "ytick.labelcolor",
    ]  # fmt: skip
    papered = ["figure.facecolor", "axes.facecolor", "savefig.facecolor"]
    sns.set_theme(
        style="ticks",
        palette="colorblind",
        rc={
            **dict.fromkeys(inked, INK),
            **dict.fromkeys(papered, PAPER),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "legend.frameon": False,
            "svg.hashsalt": "nalu",
        },
    )
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def show_chart(chart: alt.TopLevelMixin) -> None:
    """Display an Altair chart that has a description: live in a notebook and on the website."""
    spec = chart.to_dict()
    display(
        {
            "application/vnd.vegalite.v6+json": spec,
            **chart._repr_mimebundle_(),
            "text/plain": spec["description"],
        },
        raw=True,
    )


def legend_below(ax: Axes) -> None:
    """The legend of one panel, below all of its figure."""
    handles = ax.get_legend_handles_labels()
    ax.figure.legend(*handles, loc="outside lower center", ncols=4)


CEILING = 500  # of the loss surfaces


def surface_plot(ax: Axes3D, w1: Tensor, w2: Tensor, loss: Tensor) -> None:
    """A loss surface as in Figures 1 and 2, seen from the paper's side and flat at 500.

    The colours of all surfaces are those of losses from 0 to 150.
    """
    cut = np.minimum(loss.numpy(), CEILING)
    ax.plot_surface(
        w1.numpy(), w2.numpy(), cut, cmap="viridis", vmin=0, vmax=150,
        rcount=len(w1), ccount=len(w1), linewidth=0.1, edgecolor=INK, rasterized=True,
    )  # fmt: skip
    ax.view_init(elev=51, azim=-45)  # Maple's theta = -45, phi = 39
    ax.set_box_aspect((1, 1, 0.75), zoom=1.1)
    ax.set(xlabel="$w_1$", ylabel="$w_2$", zlim=(0, CEILING))
    ax.locator_params(nbins=4)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color("none")


def surface_map(
    ax: Axes,
    w1: Tensor,
    w2: Tensor,
    answers: Tensor,
    target: float,
    undesired: list[tuple[float, float]],
) -> QuadMesh:
    """Squared error over two weights, the lines of zero loss, and the solutions on them."""
    log_loss = ((answers - target) ** 2).clamp(min=1e-30).log10()
    image = ax.pcolormesh(
        w1, w2, log_loss, vmin=-2, vmax=4, cmap="magma", shading="nearest", rasterized=True
    )
    ax.contour(w1, w2, answers - target, levels=[0], colors="white", linewidths=1)
    marks = {"markeredgecolor": "black", "markerfacecolor": "white", "clip_on": False, "zorder": 3}
    ax.plot(*zip(*undesired, strict=True), "X", markersize=8, **marks)
    ax.plot(1, 1, "*", markersize=15, **marks)
    ax.set(xlabel="$w_1$", ylabel="$w_2$")
    return image


def outcome_map(ax: Axes, w1: Tensor, w2: Tensor, outcome: Tensor, kinds: int) -> QuadMesh:
    """Starting points by outcome, a number below ``kinds`` for each."""
    colours = ListedColormap(sns.color_palette("colorblind", kinds))
    norm = BoundaryNorm(np.arange(kinds + 1) - 0.5, kinds)
    image = ax.pcolormesh(w1, w2, outcome, cmap=colours, norm=norm, shading="nearest")
    image.set_rasterized(True)
    ax.set(xlabel="$w_1$ at the start", ylabel="$w_2$ at the start")
    return image


def penalty_plot(axes: tuple[Axes, Axes], unit: type[Constrained], w_hat: Tensor) -> None:
    """A unit's weight and the summands of its regularisers over Ŵ: draft left, final right."""
    clipped = w_hat.clamp(*unit.interval)
    draft = {"$R_{bias}$": unit.bias_penalty(w_hat), "$R_{oob}$": unit.out_of_bounds_penalty(w_hat)}
    final = {"$R_{sparse}$": unit.sparsity_penalty(clipped)}
    for ax, curves in zip(axes, (draft, final), strict=True):
        ax.plot(w_hat, clipped, color=INK, linewidth=1, label="$W$")
        for (label, values), style in zip(curves.items(), ("-", "--"), strict=False):
            ax.plot(w_hat, values, style, label=label)
        ax.axvspan(*unit.interval, color="0.5", alpha=0.15, linewidth=0)
        ax.set(xlabel=r"$\hat{W}$", ylim=(-1.1, 1.1))
        ax.legend(loc="lower right")


def weight_strips(ax: Axes, weights: Tensor, names: list[str]) -> None:
    """The final weights of many runs, (runs, inputs), one column of points an input."""
    for whole in (-1, 0, 1):
        ax.axhline(whole, color="0.6", linewidth=0.8, zorder=0)
    spread = np.linspace(-0.25, 0.25, len(weights))
    for place in range(weights.shape[1]):
        ax.scatter(place + spread, weights[:, place], s=8)
    ax.set(xticks=range(len(names)), xticklabels=names, ylim=(-1.4, 1.4))


def engine_plot(ax: Axes, curves: dict[str, pd.DataFrame]) -> None:
    """Extrapolation error over steps, one curve an engine."""
    for (engine, table), style in zip(curves.items(), ("-", "--"), strict=False):
        ax.plot(table.step, table.extrapolation_error, style, label=engine)
    ax.set(yscale="log", xlabel="step")


def bench_plot(ax: Axes, table: pd.DataFrame) -> None:
    """Time of a step by model and engine, from a benchmark of one task, and the floor."""
    labelled = table.assign(model=table.model.map(model_label))
    sns.barplot(labelled, x="model", y="µs a step", hue="engine", ax=ax)
    floors = table.drop_duplicates("model")["floor, µs"]
    ax.hlines(floors, np.arange(len(floors)) - 0.4, np.arange(len(floors)) + 0.4, color="0.5")
    ax.set(yscale="log", xlabel="")
    ax.get_legend().remove()


def range_plot(ax: Axes, starts: np.ndarray, network: np.ndarray, runs: np.ndarray) -> None:
    """Relative error by range of the inputs: one network, and (ranges, runs) of a NALU."""
    ax.axvspan(starts[0] - 0.5, starts[0] + 0.5, color="0.5", alpha=0.2, linewidth=0)
    ax.plot(starts, runs, color="C1", linewidth=0.5, alpha=0.6)
    ax.plot(starts, np.median(runs, axis=1), "o-", color="C1", markersize=4, label="NALU")
    ax.plot(starts, network, "s-", color="C0", markersize=4, label="network")
    ax.set(yscale="log", xlabel="$s$, inputs from $U[s, s + 1]$")


def gate_plot(
    ax: Axes, gate: Tensor, weight: Tensor, gate_solution: int, weight_solution: tuple[int, int]
) -> None:
    """Gates (runs,) against both weights (runs, 2) of NALUs, and where they should be."""
    for i, marker in enumerate("o^"):
        ax.scatter(gate, weight[:, i], marker=marker, s=20, label=f"$W_{i + 1}$")
        ax.plot(gate_solution, weight_solution[i], "*", markersize=18, color="0.7", zorder=0)
    ax.set(xlim=(-0.08, 1.08), ylim=(-1.2, 1.2), xlabel="gate $g$")


def agreement_plot(
    ax: Axes,
    curve: tuple[np.ndarray, np.ndarray],
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Theory as a line (x, y), and Monte Carlo as points (x, y, standard error)."""
    x, y, error = points
    ax.plot(*curve, color="C0")
    ax.errorbar(x, y, 2 * error, fmt="o", color="C1", markersize=4, capsize=3)


def attainable_map(ax: Axes, var_z: np.ndarray, h_in: np.ndarray, wanted: np.ndarray) -> QuadMesh:
    """Var[W] that an NMU would need, (sizes, variances); beyond [0, 1/4] in plain colours."""
    colours = sns.color_palette("viridis", as_cmap=True).with_extremes(over="0.45", under="0.8")
    image = ax.pcolormesh(
        var_z, h_in, wanted, vmin=0, vmax=0.25, cmap=colours, shading="nearest", rasterized=True
    )
    ax.axvline(4, color="white", linestyle="--")
    ax.set(xscale="log", xlabel=r"Var$[z_{\ell-1}]$")
    return image


def signal_plot(ax: Axes, sizes: np.ndarray, label: str, style: str) -> None:
    """Sizes of a signal layer by layer, (initialisations, layers): median and middle 80 %."""
    low, middle, high = np.nanquantile(sizes, [0.1, 0.5, 0.9], axis=0, method="nearest")
    layers = np.arange(sizes.shape[1])
    (line,) = ax.plot(layers, middle, style, markersize=4, label=label)
    ax.fill_between(layers, low, high, color=line.get_color(), alpha=0.12, linewidth=0)


# The accumulators of section 3.2 that are no units; units have theirs in their files.
ACCUMULATORS = {
    "LSTM": Model((), "C3", "v", ":"),
    "LSTM (read-out)": Model((), "C5", "P", (0, (3, 1, 1, 1, 1, 1))),
    "exact": Model((), "C7", "X", (0, (5, 1))),
}


def look(model: str, **others) -> dict:
    """How a model is drawn: its label, colour, marker and line, unless told otherwise."""
    _, colour, marker, line = (MODELS | ACCUMULATORS)[model]
    own = {"label": model_label(model), "color": colour, "marker": marker, "linestyle": line}
    return own | others


def run_lines(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style) -> None:
    """A column over another, a line a run, and one label a model."""
    for model, group in rows.groupby("model", sort=False):
        drawn = look(model, **style)
        for _, run in group.groupby("seed"):
            ax.plot(run[x], run[y], **drawn)
            drawn["label"] = None


def task_schematic(ax: Axes, task: Arithmetic, offset: int) -> None:
    """Figure 3: the inputs of a task, which of them are summed to a and to b, and the target."""
    (a0, a1), (b0, b1) = task.subsets(offset)
    n, middle = task.input_size, task.input_size / 2
    edges = {"edgecolor": INK, "linewidth": 0.4}
    ax.bar(np.arange(n), 1, 1, align="edge", color="none", **edges)
    for (begin, end), name, side, colour in (
        ((a0, a1), "a", 1, "C0"), ((b0, b1), "b", -1, "C1")
    ):  # fmt: skip
        edge, sum_at = (1.15, 4.2) if side > 0 else (-0.15, -3.2)
        centre = (begin + end) / 2
        ax.barh(edge + 0.1 * side, end - begin, 0.2, begin, color=colour)
        for column in range(begin, end):
            ends = [edge + 0.2 * side, sum_at]
            ax.plot([column + 0.5, centre], ends, color=colour, linewidth=0.5)
        label = rf"${name} = \sum x_i$, {end - begin} inputs"
        ax.plot(centre, sum_at, "o", color=colour, markersize=9)
        ax.text(centre - n / 40, sum_at + 0.4 * side, label, ha="right", va="center")
        ax.plot([centre, n * 1.12], [sum_at, 0.5], color=INK, linewidth=1)
    shared = max(a0, b0), min(a1, b1)
    if shared[0] < shared[1]:
        ax.bar(shared[0], 1, shared[1] - shared[0], align="edge", color="0.5", alpha=0.4)
        ax.text(sum(shared) / 2, 0.5, f"{shared[1] - shared[0]}", ha="center", va="center")
    ax.text(n * 1.13, 0.5, f"$t =$ {OPERATION_SIGNS[task.operation]}", va="center")
    ax.text(middle, -4.4, f"{n} inputs, subsets from input {a0 + 1} on", ha="center", va="top")
    ax.set(xlim=(-1, n * 1.3), ylim=(-5.5, 5.2))
    ax.set_axis_off()


def run_curves(ax: Axes, curves: pd.DataFrame, solved: set[int], limit: float) -> None:
    """Extrapolation errors of all runs of a model: those of solved seeds over the others."""
    for seed, curve in curves.groupby("seed"):
        well = seed in solved
        colour, width, order = ("C0", 0.6, 2) if well else ("C1", 0.6, 1)
        ax.plot(
            curve.step / 1000, curve.extrapolation_error, color=colour, linewidth=width,
            alpha=0.5, zorder=order, rasterized=True,
        )  # fmt: skip
    ax.axhline(limit, color=INK, linewidth=1, linestyle="--")
    ax.set(yscale="log", xlabel="step / 1000")


def example_run(axes: tuple[Axes, Axes, Axes], curves: pd.DataFrame, limit: float) -> None:
    """Both errors and the sparsity error over steps, one line a model."""
    names = ("extrapolation_error", "interpolation_error", "sparsity_error")
    for ax, name in zip(axes, names, strict=True):
        for model, curve in curves.groupby("model", sort=False):
            ax.plot(curve.step / 1e6, curve[name], **look(model, marker=None, linewidth=1))
        ax.set(yscale="log", xlabel="million steps", title=name.replace("_", " "))
    axes[0].axhline(limit, color=INK, linewidth=1, linestyle="--")
    axes[0].legend(loc="best")


def rate_strip(ax: Axes, rates: dict[str, np.ndarray], published: dict[str, float]) -> None:
    """Success rates of many sets of seeds, a row a model, with what the paper printed."""
    for place, (model, values) in enumerate(rates.items()):
        colour = MODELS[model].colour
        found, counts = np.unique(values, return_counts=True)
        ax.bar(
            100 * found, 0.85 * counts / counts.max(), 0.8, bottom=place, color=colour, linewidth=0
        )
        if model in published:
            ax.plot(100 * published[model], place - 0.09, "^", color=INK, markersize=8)
    ax.set(
        yticks=np.arange(len(rates)) + 0.3,
        yticklabels=[model_label(model) for model in rates],
        xlim=(0, 100),
        ylim=(-0.25, len(rates)),
        xlabel="success rate of a set of seeds, %",
    )


def boundary_plot(
    axes: tuple[Axes, Axes, Axes],
    ours: pd.DataFrame,
    published: pd.DataFrame,
    parameter: str,
    thousand: bool = False,
    intervals: bool = True,
) -> None:
    """Figures 4 to 6: success rate, solved at and sparsity error over one parameter.

    Args:
        ours: rows of ``evaluation.summary`` by ``parameter`` and model.
        published: rows of ``published.figure``, drawn hollow.
        thousand: count steps in thousands, not millions.
        intervals: draw those of ``ours``; of few runs they cover everything else.
    """
    steps = 1e3 if thousand else 1e6
    measures = (("success_rate", 1.0), ("solved_at", steps), ("sparsity_error", 1.0))
    for ax, (measure, unit) in zip(axes, measures, strict=True):
        for model in dict.fromkeys([*ours.model, *published.model]):
            group, theirs = (frame[frame.model == model] for frame in (ours, published))
            y = group[measure] / unit
            ends = [y - group[f"{measure}_low"] / unit, group[f"{measure}_high"] / unit - y]
            label = f"{model_label(model)}, published"
            if len(group):
                style = look(model, markersize=5, linewidth=1.2, capsize=2, elinewidth=0.8)
                ax.errorbar(group[parameter], y, ends if intervals else None, **style)
                label = None
            style = look(model, label=label, markersize=9, markerfacecolor="none", linestyle="none")
            ax.plot(theirs[parameter], theirs[measure] / unit, **style)
        ax.set(xlabel=parameter.replace("_", " "))
    axes[0].set(ylabel="success rate", ylim=(-0.05, 1.05))
    words = "1000 steps" if thousand else "million steps"
    axes[1].set(ylabel=f"solved at, {words}", ylim=(0, None))
    positive = any((frame.sparsity_error > 0).any() for frame in (ours, published))
    axes[2].set(ylabel="sparsity error", yscale="log" if positive else "linear")
    legend_below(axes[0])


def threshold_plot(
    ax: Axes, errors: dict[str, np.ndarray], limits: dict[str, float]
) -> list[Line2D]:
    """Success rate of each model as a function of the threshold.

    Args:
        errors: of the runs of each model; NaN is never solved.
        limits: thresholds that were used; the lines drawn for them are returned.
    """
    for model, values in errors.items():
        x = np.sort(values[np.isfinite(values)])
        x = np.concatenate([x[:1] / 1e3, x, x[-1:] * 1e3])
        y = np.r_[0, np.arange(1, len(x) - 1), len(x) - 2][: len(x)] / len(values)
        ax.step(x, y, where="post", **look(model, marker=None))
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="threshold on the extrapolation error")
    return [
        ax.axvline(limit, color="0.5", linewidth=1.2, linestyle=line, label=name)
        for (name, limit), line in zip(limits.items(), ("-", "--", ":"), strict=False)
    ]


def sequence_schematic(ax: Axes, images: Tensor, digits: list[int], operation: str) -> None:
    """Figure 7: images (n, 28, 28) read by f one by one, and what accumulates their digits."""
    sign = r"$\times$" if operation == "product" else "$+$"
    values = np.cumprod(digits) if operation == "product" else np.cumsum(digits)
    node = {"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": INK}
    circle = {**node, "boxstyle": "circle,pad=0.25"}
    arrow = {"arrowstyle": "->", "color": INK, "shrinkA": 0, "shrinkB": 0}

    def line(begin: tuple[float, float], end: tuple[float, float]) -> None:
        ax.annotate("", end, begin, arrowprops=arrow)

    start = 1 if operation == "product" else 0
    ax.text(-1.2, 0, f"$s_0 = {start}$", ha="center", va="center")
    line((-0.75, 0), (-0.27, 0))
    for i, (image, digit, value) in enumerate(zip(images, digits, values, strict=True)):
        x = 2.2 * i
        extent = (x - 0.5, x + 0.5, 2.35, 3.35)
        ax.imshow(image, cmap="gray", extent=extent, interpolation="nearest")
        line((x, 2.32), (x, 1.86))
        ax.text(x, 1.57, "$f$", ha="center", va="center", bbox=node)
        line((x, 1.28), (x, 0.3))
        ax.text(x + 0.12, 0.8, f"$f(x_{i + 1}) \\approx {digit}$", ha="left", va="center")
        ax.text(x, 0, sign, ha="center", va="center", bbox=circle)
        last = i == len(digits) - 1
        line((x + 0.27, 0), (x + (0.8 if last else 1.93), 0))
        text = f"$s_{i + 1} = {value}$"
        place = (x + 0.9, 0) if last else (x + 1.1, -0.12)
        ax.text(*place, text, ha="left" if last else "center", va="center" if last else "top")
    ax.set(xlim=(-1.7, 2.2 * len(digits) + 0.1), ylim=(-0.6, 3.4), aspect="equal")
    ax.set_axis_off()


def training_plot(ax: Axes, curves: pd.DataFrame) -> None:
    """Validation error over epochs, a line a run of sequential MNIST."""
    run_lines(ax, curves, "epoch", "validation_error", marker=None, linewidth=1)
    ax.set(yscale="log", xlabel="epoch", ylabel="validation error")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)


def digit_plot(figure: Figure, curves: pd.DataFrame) -> None:
    """What the CNN of each model reads from each digit, before training and at its end.

    The mean over validation images, a panel a model; a line a run, or one for each number that
    is read. Where values exceed 100, their axis is logarithmic beyond 10.

    Args:
        curves: of ``nalu.learning_curves``.
    """
    models = curves.groupby("model", sort=False)
    rows = math.ceil(len(models) / 3)
    figure.set_size_inches(10, 3.2 * rows)
    axes = figure.subplots(rows, 3).ravel()
    for ax in axes[len(models) :]:
        ax.set_axis_off()
    for ax, (model, group) in zip(axes, models, strict=False):
        ax.plot([0, 9], [0, 9], color=INK, linewidth=0.7)
        runs = group.groupby("seed")
        before = {"linestyle": ":", "color": "0.5"}
        after = look(model, linestyle="-", markersize=4, linewidth=1)
        for ends, style in ((runs.head(1), before), (runs.tail(1), after)):
            read = ends.filter(regex="^digit_").dropna(axis=1, how="all").to_numpy()
            lines = read.reshape(len(read), 10, -1).transpose(1, 0, 2).reshape(10, -1)
            ax.plot(range(10), lines, **style)
        if np.abs(ax.dataLim.intervaly).max() > 100:
            ax.set_yscale("symlog", linthresh=10)
            ax.yaxis.get_major_locator().set_params(numticks=7)
        ax.set(xlabel="digit shown", xticks=range(10), title=model_label(model))
        ax.margins(y=0.1)
    axes[0].set(ylabel="value read")


def length_plot(
    axes: tuple[Axes, Axes], scores: pd.DataFrame, reference: pd.DataFrame, blind: pd.Series
) -> None:
    """Test error over the length of sequences, and as a multiple of the threshold.

    Args:
        scores: of ``sequence_evaluation.sequence_scores``, a line a run.
        reference: the same of the runs behind the threshold.
        blind: the error of a model that sees no image, by length.
    """
    rows = pd.concat([reference, scores])
    limits = scores.drop_duplicates("length").set_index("length").threshold
    relative = rows.threshold, limits, "test error / threshold"
    for ax, (of_rows, of_lengths, words) in zip(
        axes, ((1, 1, "test error"), relative), strict=True
    ):
        errors = rows.assign(error=rows.test_error / of_rows)
        run_lines(ax, errors, "length", "error", markersize=4, linewidth=1)
        ax.plot(limits / of_lengths, "--", color=INK, linewidth=1, label="threshold")
        ax.plot(blind / of_lengths, ":", color=INK, linewidth=1.5, label="no image seen")
        ax.set(yscale="log", xlabel="length", ylabel=words)
        ax.xaxis.get_major_locator().set_params(integer=True)
    legend_below(axes[0])


def example_sequences(
    axes: list[Axes], images: Tensor, states: Tensor, targets: Tensor, titles: list[str]
) -> None:
    """Sequences of images (rows, length, 28, 28), and under each the value so far and the target.

    States and targets are (rows, length).
    """
    for ax, row, state, target, title in zip(axes, images, states, targets, titles, strict=True):
        size = row.shape[-1]
        ax.imshow(row.transpose(0, 1).flatten(1), cmap="gray", interpolation="nearest")
        for i, (value, wanted) in enumerate(zip(state.tolist(), target.tolist(), strict=True)):
            text = f"{rounded(value, '.4g')}\n({wanted:,.0f})"
            ax.text(size * (i + 0.5), size + 2, text, ha="center", va="top", fontsize="small")
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
        ax.set(xticks=[], yticks=[], frame_on=False)
