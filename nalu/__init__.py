"""Neural arithmetic units: the layers, and the experiments of the paper that compares them."""

from . import experiments
from .runs import learning_curves, sweep, trained_models
from .training.protocol import Draft, Final, Optimizer, prepare
from .units import UNITS

globals().update(UNITS)
__all__ = [
    *UNITS, "Draft", "Final", "Optimizer", "prepare", "experiments", "learning_curves", "sweep",
    "trained_models",
]  # fmt: skip
