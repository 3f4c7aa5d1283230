"""The random numbers of the authors' own code, to repeat single published runs.

Source: protocol of the draft and the final paper as in the authors' repository,
AndreasMadsen/stable-nalu, experiments/simple_function_static.py.
"""

from __future__ import annotations

import numpy as np

from ..tasks.arithmetic import Arithmetic
from . import random

SHARED_SEEDS = {random.VALIDATION: 43953907, random.TEST: 8689336}  # the same for all runs


class AuthorsStream:
    """One run's generators: the first draws the offset, then seeds one for each kind of sample.

    Unlike the stream of ``random`` it can only be read from its beginning on.
    """

    def __init__(self, task: Arithmetic, seed: int):
        owner = np.random.RandomState(seed)
        self.task = task
        self.offset = int(owner.randint(0, task.offsets)) if task.draws_offset else 0
        purposes = (random.TRAINING, random.INTERPOLATION, random.EXTRAPOLATION)
        seeds = {purpose: owner.randint(0, 2**32 - 1) for purpose in purposes} | SHARED_SEEDS
        self.generators = {purpose: np.random.RandomState(s) for purpose, s in seeds.items()}

    def samples(self, purpose: int, rows: int, ranges) -> tuple[np.ndarray, np.ndarray]:
        """The next samples, (rows, input_size) float32, and their targets, (rows, 1) float32."""
        ((low, high),) = ranges
        x = self.generators[purpose].uniform(low, high, (rows, self.task.input_size))
        return x.astype(np.float32), self.task.target(x, self.offset).astype(np.float32)
