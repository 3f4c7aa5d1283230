"""The units, one file each, with its equation at the top: a file that is put here is found."""

from functools import partial
from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import iter_modules

from .base import EPSILON, Model, Unit, distance, side_by_side
from .constrained import Constrained
from .nac import nac_weight
from .nac_mul import nac_mul
from .nmu import nmu
from .recurrent import LSTM, Exact, Recurrent

# By class name: those that have a label.
UNITS: dict[str, type[Unit]] = {
    name: unit
    for module in (import_module(f"{__name__}.{each.name}") for each in iter_modules(__path__))
    for name, unit in sorted(getmembers(module, isclass))
    if issubclass(unit, Unit) and unit.__module__ == module.__name__ and "label" in vars(unit)
}
# What layers are made of: units, and their variants.
LAYERS = {
    **UNITS,
    **{
        name: partial(unit, **options)
        for unit in UNITS.values()
        for name, options in unit.variants.items()
    },
}
# What tables and figures know by name.
MODELS: dict[str, Model] = {
    name: model for unit in UNITS.values() for name, model in unit.models.items()
}
globals().update(UNITS)


def unit_named(name: str) -> type[Unit]:
    """The class of a unit, by class name, label or any name it has had in the paper's code.

    Raises:
        ValueError: no unit has that name; the message lists those there are.
    """
    for unit in UNITS.values():
        if name in (unit.__name__, unit.label, *unit.aliases):
            return unit
    raise ValueError(f"no unit is named {name!r}; there are {', '.join(UNITS)}")


def layer_named(name: str) -> str:
    """The name of a layer as runs keep it, from any name its unit has had.

    Raises:
        ValueError: no unit has that name.
    """
    return name if isinstance(name, str) and name in LAYERS else unit_named(name).__name__


def unit_of(layer: str) -> type[Unit]:
    """The class of a layer's unit, also of a variant."""
    return getattr(LAYERS[layer], "func", LAYERS[layer])


__all__ = [
    *UNITS, "Constrained", "EPSILON", "Exact", "LAYERS", "LSTM", "MODELS", "Model", "Recurrent",
    "UNITS", "Unit", "distance", "layer_named", "nac_mul", "nac_weight", "nmu", "side_by_side",
    "unit_named", "unit_of",
]  # fmt: skip
