"""The experiments of section 3 as data: which models, tasks, grids and seeds.

Each function gives the runs of one table or figure, for ``nalu.sweep``.
``protocol`` is "draft" or "final", or one with constants of your own; an argument that is None
means what that version of the paper has.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from . import units
from .tasks.arithmetic import OPERATIONS, SimpleMultiplication, StaticFunction
from .tasks.mnist import SequentialMNIST
from .training.protocol import Protocol, protocol_named
from .training.run import Run, cell
from .training.sequence_run import EXACT, SequenceRun
from .units import layer_named, unit_named

# Models by name: their layers.
MODELS = {name: model.layers for name, model in units.MODELS.items()}
MULTIPLYING = ("NACMul", "NALU", "NMU")
ADDING = ("NAC", "Linear", "NALU", "NAU")
BASIC = ("Linear", "ReLU", "ReLU6", "NAC", "NACMul", "NALU", "NAU", "NMU")

INTERPOLATION = (1.0, 2.0)
EXTRAPOLATION = {"draft": (1.0, 6.0), "final": (2.0, 6.0)}

# What each figure varies, and over which values.
INPUT_SIZES = (4, 10, 25, 50, 75, 100, 125, 150, 175, 200)
BOUNDARIES = {
    "draft": {
        "input_size": INPUT_SIZES,
        "overlap_ratio": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        "subset_ratio": (0.05, 0.1, 0.25, 0.5),
        "hidden_size": tuple(range(2, 11)),
        "ranges": (  # interpolation, extrapolation; the day after the draft
            ((-2, 2), (-6, 6)), ((0, 1), (0, 5)), ((0.1, 0.2), (0, 2)), ((1, 2), (1, 6)),
            ((10, 20), (1, 40)),
        ),
    },
    "final": {
        "input_size": (*INPUT_SIZES, 225, 250, 275, 300),
        "overlap_ratio": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        "subset_ratio": (0.05, 0.1, 0.25, 0.5),
        "hidden_size": tuple(range(2, 11)),
        "ranges": (
            ((-2, -1), (-6, -2)), ((-2, 2), ((-6, -2), (2, 6))), ((0, 1), (1, 5)),
            ((0.1, 0.2), (0.2, 2)), ((1, 2), (2, 6)), ((1.1, 1.2), (1.2, 6)), ((10, 20), (20, 40)),
        ),
    },
}  # fmt: skip


def model_named(name: str | Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The name and layers of a model, from its name, an alias, or the names of its units.

    Raises:
        ValueError: there is no such model or unit.
    """
    if isinstance(name, str):
        name = name if name in MODELS else unit_named(name).__name__
        if name not in MODELS:
            raise ValueError(f"{name} is a unit and no model: name its layers, ('NAU', {name!r})")
        return name, MODELS[name]
    layers = tuple(layer_named(unit) for unit in name)
    known = {units: model for model, units in MODELS.items()}
    return known.get(layers, cell(layers)), layers


class Named(Container):
    """Some models, of which each is in by any of its names; for ``parameters.check_parameters``."""

    def __init__(self, models: Iterable[str]):
        self.models = tuple(models)

    def __contains__(self, name: str) -> bool:
        try:
            return name in self.models or model_named(name)[0] in self.models
        except ValueError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)


def version(protocol: str | Protocol) -> str:
    """Of which version of the paper a protocol is, given by name or as it is.

    Raises:
        ValueError: there is no such protocol.
    """
    rules = type(protocol) if isinstance(protocol, Protocol) else protocol_named(protocol)
    return next(each.name for each in rules.__mro__ if vars(each).get("name") in EXTRAPOLATION)


def _ranges(protocol: str | Protocol, interpolation, extrapolation) -> dict:
    """The ranges of a task, as its fields: those of the paper where they are None."""
    paper = EXTRAPOLATION[version(protocol)]
    return {
        "interpolation": INTERPOLATION if interpolation is None else interpolation,
        "extrapolation": paper if extrapolation is None else extrapolation,
    }


def _runs(models, tasks, seeds, **fields) -> list[Run]:
    named = [model_named(model) for model in models]
    return [
        Run(layers, task, seed=seed, model=model, **fields)
        for task in tasks
        for model, layers in named
        for seed in seeds
    ]


def simple_multiplication(
    protocol: str | Protocol = "draft",
    seeds: Iterable[int] | None = None,
    models: Sequence[str] | None = None,
    iterations: int | None = None,
    interpolation: Sequence | None = None,
    extrapolation: Sequence | None = None,
    **fields,
) -> list[Run]:
    """(x₁ + x₂ + x₃ + x₄) · (x₁ + x₂), Table 1: 100 seeds of three models, 200 000 iterations.

    Samples lie in the range ``interpolation`` in training and in ``extrapolation`` where a run
    has to be right. Other fields of ``Run`` may be given by name.

    Raises:
        ValueError: there is no such protocol, model or range.
    """
    task = SimpleMultiplication(**_ranges(protocol, interpolation, extrapolation))
    return _runs(
        MULTIPLYING if models is None else models,
        [task],
        range(100) if seeds is None else list(seeds),
        protocol=protocol,
        iterations=200_000 if iterations is None else iterations,
        experiment="simple_multiplication",
        **fields,
    )


def static_function(
    protocol: str | Protocol = "draft",
    seeds: Iterable[int] | None = None,
    operations: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    iterations: int | None = None,
    interpolation: Sequence | None = None,
    extrapolation: Sequence | None = None,
    **fields,
) -> list[Run]:
    """An operation on two windows of 100 inputs, Table 2: 10 seeds, in the final paper 100.

    a · b, a - b and a + b unless told otherwise, with the models that the table has for each;
    other operations have all basic models. Samples lie in the range ``interpolation`` in training
    and in ``extrapolation`` where a run has to be right. Other fields of ``Run`` may be given by
    name.

    Raises:
        ValueError: there is no such protocol, operation, model or range.
    """
    ranges = _ranges(protocol, interpolation, extrapolation)
    seeds = range(10 if version(protocol) == "draft" else 100) if seeds is None else list(seeds)
    runs = []
    for operation in ("mul", "sub", "add") if operations is None else operations:
        task = StaticFunction(operation, **ranges)
        paper = {"mul": MULTIPLYING, "add": ADDING, "sub": ADDING}.get(operation, BASIC)
        runs += _runs(
            paper if models is None else models,
            [task],
            seeds,
            protocol=protocol,
            iterations=5_000_000 if iterations is None else iterations,
            experiment="static_function",
            **fields,
        )
    return runs


def boundary(
    parameter: str = "input_size",
    protocol: str | Protocol = "draft",
    seeds: Iterable[int] | None = None,
    values: Sequence | None = None,
    models: Sequence[str] | None = None,
    iterations: int | None = None,
    operation: str = "mul",
    interpolation: Sequence | None = None,
    extrapolation: Sequence | None = None,
    **fields,
) -> list[Run]:
    """a · b with one parameter varied, section 3.1.3: 10 seeds, in the final paper 50.

    The draft varies "input_size" (Figure 4), "overlap_ratio" (5) and "subset_ratio" (6). The
    days after it brought "hidden_size" and "ranges", whose values are pairs of an interpolation
    and an extrapolation range. Iterations are 5 million, in the final paper 10 million from 125
    inputs on and 15 million from 225 on. ``operation``, and the ranges where they are not varied,
    may be others than the paper's, and other fields of ``Run`` be given by name.

    Models are the draft's; the final paper's NAC•,σ and NAC•,NMU, which only the reference engine
    trains, are for those who name them.

    Raises:
        ValueError: there is no such parameter, protocol, model, operation or range, or it cannot
            have a value.
    """
    ranges = _ranges(protocol, interpolation, extrapolation)
    final = version(protocol) == "final"
    grids = BOUNDARIES[version(protocol)]
    if parameter not in grids:
        raise ValueError(f"parameter is {parameter!r}: it must be one of {', '.join(grids)}")
    if parameter in fields:
        raise ValueError(f"{parameter} is what is varied here: give it as values")
    if parameter == "ranges" and not (interpolation is None and extrapolation is None):
        raise ValueError("the ranges are what is varied here: give them as values")
    seeds = range(50 if final else 10) if seeds is None else list(seeds)
    runs = []
    for value in grids[parameter] if values is None else values:
        varied = dict(ranges)
        if parameter == "ranges":
            if not isinstance(value, Sequence) or len(value) != 2:
                raise ValueError(
                    f"a value of ranges is {value!r}: it must be an interpolation and an "
                    "extrapolation range"
                )
            varied["interpolation"], varied["extrapolation"] = value
        elif parameter != "hidden_size":
            varied[parameter] = value
        task = StaticFunction(operation, **varied)
        longer = final and task.input_size > 100
        paper = (10_000_000 if task.input_size <= 200 else 15_000_000) if longer else 5_000_000
        runs += _runs(
            MULTIPLYING if models is None else models,
            [task],
            seeds,
            protocol=protocol,
            iterations=paper if iterations is None else iterations,
            experiment=f"boundary {parameter}",
            **{**fields, **({"hidden_size": value} if parameter == "hidden_size" else {})},
        )
    return runs


# What accumulates digits in section 3.2. The paper's LSTM has another beside it, which can
# represent the answer.
SEQUENTIAL = {
    "draft": {"product": ("NACMul", "NALU", "NMU"), "sum": ("NAC", "NALU", "NAU")},
    "final": {
        "product": ("NACMul", "NACMulSigma", "NACMulNMU", "NALU", "LSTM", "LSTM (read-out)", "NMU"),
        "sum": ("NAC", "NALU", "LSTM", "LSTM (read-out)", "NAU"),
    },
}


def sequential_mnist(
    operation: str = "product",
    protocol: str | Protocol = "final",
    seeds: Iterable[int] | None = None,
    models: Sequence[str] | None = None,
    epochs: int | None = None,
    z_strength: float | None = None,
    **fields,
) -> list[SequenceRun]:
    """The product or sum of a sequence of digits, section 3.2: 10 seeds, 1000 epochs.

    The draft has 11 seeds, and 50,000 epochs for the product and 100,000 for the sum. A model
    is named after the unit that accumulates; "exact" is the one behind the thresholds.
    ``z_strength`` is for the units with R_z: 1 in the final paper unless told otherwise, which
    also has these runs with 0, and 0 in the draft. Other fields of ``SequenceRun`` may be given
    by name.

    Raises:
        ValueError: there is no such operation, protocol or unit.
    """
    draft = version(protocol) == "draft"
    task = SequentialMNIST.of(operation, version(protocol))
    if epochs is None:
        epochs = (50_000 if operation == "product" else 100_000) if draft else 1_000
    if z_strength is None:
        z_strength = 0.0 if draft else 1.0
    seeds = range(11 if draft else 10) if seeds is None else list(seeds)
    runs = []
    for model in SEQUENTIAL[version(protocol)][operation] if models is None else models:
        run = SequenceRun(model, task, protocol, epochs, experiment="sequential_mnist", **fields)
        strength = z_strength if run.has_r_z else 0.0
        runs += [run.but(seed=seed, z_strength=strength) for seed in seeds]
    return runs


EXPERIMENTS = {
    "simple_multiplication": simple_multiplication,
    "static_function": static_function,
    "boundary": boundary,
    "sequential_mnist": sequential_mnist,
}
__all__ = [
    *EXPERIMENTS, "EXACT", "EXPERIMENTS", "MODELS", "OPERATIONS", "SEQUENTIAL",
    "model_named",
]  # fmt: skip
