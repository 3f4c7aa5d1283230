"""The units of the paper, one file each, with its equation at the top.

To add a unit, write its file and put its class into ``UNITS``.
"""

from .base import EPSILON, Unit, side_by_side
from .constrained import Constrained
from .linear import Linear, ReLU, ReLU6
from .nac import NAC, nac_weight
from .nac_mul import NACMul, nac_mul
from .nac_mul_nmu import NACMulNMU
from .nac_mul_sigma import NACMulSigma
from .nalu import NALU
from .nau import NAU
from .nmu import NMU, nmu
from .recurrent import LSTM, Exact, Recurrent

UNITS: dict[str, type[Unit]] = {
    unit.__name__: unit
    for unit in (Linear, ReLU, ReLU6, NAC, NACMul, NALU, NAU, NMU, NACMulSigma, NACMulNMU)
}


def unit_named(name: str) -> type[Unit]:
    """The class of a unit, by class name, label or any name it has had in the paper's code.

    Raises:
        ValueError: no unit has that name; the message lists those there are.
    """
    for unit in UNITS.values():
        if name in (unit.__name__, unit.label, *unit.aliases):
            return unit
    raise ValueError(f"no unit is named {name!r}; there are {', '.join(UNITS)}")


__all__ = [
    *UNITS, "Constrained", "EPSILON", "Exact", "LSTM", "Recurrent", "UNITS", "Unit",
    "nac_mul", "nac_weight", "nmu", "side_by_side", "unit_named",
]  # fmt: skip
