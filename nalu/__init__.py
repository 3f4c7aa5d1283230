"""Neural arithmetic units: the layers, and the experiments of the paper that compares them."""

from . import experiments
from .runs import learning_curves, sweep, trained_models
from .training.protocol import Draft, Final, prepare
from .units import NAC, NALU, NAU, NMU, Linear, NACMul, NACMulNMU, NACMulSigma, ReLU, ReLU6

__all__ = [
    "NAC", "NALU", "NAU", "NMU", "Linear", "NACMul", "NACMulNMU", "NACMulSigma", "ReLU", "ReLU6",
    "Draft", "Final", "prepare", "experiments", "learning_curves", "sweep",
    "trained_models",
]  # fmt: skip
