"""How figures look: one style, and the figures of the paper."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import BoundaryNorm, ListedColormap
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor

from .units import Constrained

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


def surface_plot(ax: Axes3D, w1: Tensor, w2: Tensor, loss: Tensor, ceiling: float = 500) -> None:
    """A loss surface as in Figures 1 and 2, seen from the paper's side and flat at ``ceiling``.

    The colours of all surfaces are those of losses from 0 to 150.
    """
    cut = np.minimum(loss.numpy(), ceiling)
    ax.plot_surface(
        w1.numpy(), w2.numpy(), cut, cmap="viridis", vmin=0, vmax=150,
        rcount=len(w1), ccount=len(w1), linewidth=0.1, edgecolor=INK, rasterized=True,
    )  # fmt: skip
    ax.view_init(elev=51, azim=-45)  # Maple's theta = -45, phi = 39
    ax.set_box_aspect((1, 1, 0.75), zoom=1.1)
    ax.set(xlabel="$w_1$", ylabel="$w_2$", zlim=(0, ceiling))
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
    for ax, curves in zip(
        axes,
        (
            {
                "$R_{bias}$": unit.bias_penalty(w_hat),
                "$R_{oob}$": unit.out_of_bounds_penalty(w_hat),
            },
            {"$R_{sparse}$": unit.sparsity_penalty(clipped)},
        ),
        strict=True,
    ):
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
    sns.barplot(table, x="model", y="µs a step", hue="engine", ax=ax)
    floors = table.drop_duplicates("model")["floor, µs"]
    ax.hlines(floors, np.arange(len(floors)) - 0.4, np.arange(len(floors)) + 0.4, color="0.5")
    ax.set(yscale="log", xlabel="")
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title="")


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
