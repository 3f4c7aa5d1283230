"""Sequential MNIST, section 3.2: the sum or product of the digits in a sequence of images.

    t_ℓ = x₁ ∘ x₂ ∘ ... ∘ x_ℓ,  ∘ is + or ·,  x_i the digit that image i shows

The images come with the project and are verified when they are read. As the arithmetic tasks,
this one draws nothing itself: whoever asks for windows brings an order of the digits.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..fields import Checked, as_whole, checked, choice, whole

FOLDER = Path(__file__).parents[2] / "data" / "mnist"
FILES = {  # the shape of what each file holds
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
TRAINING = 55_000  # of the 60,000 training images; the other 5,000 are for validation
MEAN, DEVIATION = 0.1307, 0.3081  # of the training pixels in [0, 1], as the authors round them

OPERATIONS = {"sum": torch.cumsum, "product": torch.cumprod}


class DamagedData(OSError):
    """A file of MNIST that is missing or is not what it should be."""


class Digits(NamedTuple):
    """Images and the digits they show."""

    images: Tensor  # (n, 28, 28) uint8
    labels: Tensor  # (n,) uint8, 0 to 9


def read(name: str, folder: str | Path = FOLDER) -> Tensor:
    """One verified file, by its unpacked name: a uint8 tensor of the shape in ``FILES``.

    Raises:
        DamagedData: the file or its checksum is missing, or they do not fit together.
    """
    path = Path(folder) / f"{name}.gz"
    restore = "restore it with `git checkout -- data/mnist`"
    try:
        lines = (Path(folder) / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        expected = {file: total for total, file in (line.split() for line in lines)}[name]
    except (OSError, ValueError, KeyError) as reason:
        raise DamagedData(
            f"{path.with_name('SHA256SUMS')} has no checksum of {name}: {restore}"
        ) from reason
    try:
        unpacked = gzip.decompress(path.read_bytes())
    except FileNotFoundError as reason:
        raise DamagedData(f"{path} is missing: {restore}") from reason
    except EOFError as reason:
        raise DamagedData(f"{path} is truncated: {restore}") from reason
    except (OSError, zlib.error) as reason:
        raise DamagedData(f"{path} cannot be unpacked ({reason}): {restore}") from reason
    found = hashlib.sha256(unpacked).hexdigest()
    if found != expected:
        raise DamagedData(
            f"{path} was altered: its checksum, unpacked, is {found[:12]}… and not "
            f"{expected[:12]}…: {restore}"
        )
    shape = FILES[name]
    header = 4 + 4 * len(shape)  # what it says is in the checksum already
    pixels = np.frombuffer(unpacked, np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(pixels.copy())


@lru_cache
def load(folder: str | Path = FOLDER) -> dict[str, Digits]:
    """All digits, verified, in memory: "training" (55,000), "validation" (5,000), "test" (10,000).

    The final paper's splits, in the order of the files. They are read once: do not change them.

    Raises:
        DamagedData: a file is missing, truncated or altered; the message says how to restore it.
    """
    train, test = (
        Digits(read(f"{part}-images-idx3-ubyte", folder), read(f"{part}-labels-idx1-ubyte", folder))
        for part in ("train", "t10k")
    )
    return {
        "training": Digits(*(part[:TRAINING] for part in train)),
        "validation": Digits(*(part[TRAINING:] for part in train)),
        "test": test,
    }


def normalised(images: Tensor) -> Tensor:
    """Pixels as a model reads them, of any shape: uint8 -> float32, mean 0 and deviation 1."""
    return (images.float() / 255 - MEAN) / DEVIATION


def _ascending(low: int, high: int) -> Callable:
    """A check for whole numbers from ``low`` to ``high``, each once and in order."""

    def check(value, name: str) -> tuple[int, ...]:
        try:
            numbers = tuple(as_whole(number, name, low, high) for number in value)
        except (TypeError, ValueError):
            numbers = ()
        if not numbers or list(numbers) != sorted(set(numbers)):
            raise ValueError(
                f"{name} is {value!r}: it must be whole numbers from {low} to {high}, "
                "at least one, in ascending order"
            )
        return numbers

    return check


@dataclass(frozen=True)
class SequentialMNIST(Checked):
    """The sum or product of the digits in a sequence of images, section 3.2.

    ``SequentialMNIST.of`` has the paper's. Targets are whole numbers in float64, which holds
    them exactly up to 2⁵³ and 9²⁰ to 16 digits (9²⁰ > 2⁶³ would overflow a 64-bit integer). In
    float32, which trains, they neither overflow (9²⁰ ≈ 1.2·10¹⁹), but from 2²⁴ on, products of
    eight digits and more, they are rounded by up to 6·10⁻⁸ of themselves. Their squared errors
    may exceed float32, so errors at long lengths are to be taken in float64.

    Raises:
        ValueError: a field is outside what its comment allows.
    """

    operation: str = choice("product", OPERATIONS)  # "sum" or "product"
    digits: tuple[int, ...] = checked(tuple(range(1, 10)), _ascending(0, 9))  # of sequences
    train_length: int = whole(2, 1, 10_000)  # images in a sequence of training and validation
    test_lengths: tuple[int, ...] = checked(tuple(range(1, 21)), _ascending(1, 10_000))
    prefixes: bool = choice(True, (True, False))  # a target for each prefix (final), or one

    @classmethod
    def of(cls, operation: str = "product", protocol: str = "final") -> SequentialMNIST:
        """The paper's task.

        Draft: one target a sequence, products of 3 digits and sums of 10, all of 0 to 9. Final:
        a target a prefix, products of 2 digits of 1 to 9, sums of 10 of 0 to 9. Test lengths are
        those of the final paper; the draft's 6 and 9, and 100 and 1000, are among them. The
        splits are the final paper's, too: the draft trains on all 60,000 and validates nothing.

        Raises:
            ValueError: there is no such operation or protocol.
        """
        if protocol not in ("draft", "final"):
            raise ValueError(f"no protocol is named {protocol!r}: use 'draft' or 'final'")
        final = protocol == "final"
        if operation == "sum":
            lengths = (1, 10, *range(100, 1001, 100))
            return cls("sum", tuple(range(10)), 10, lengths, prefixes=final)
        digits = tuple(range(1 if final else 0, 10))
        return cls(operation, digits, 2 if final else 3, prefixes=final)

    def allowed(self, labels: Tensor) -> Tensor:
        """Where the allowed digits are: labels (n,) -> (m,) int64, ascending."""
        return torch.isin(labels, torch.tensor(self.digits, device=labels.device)).nonzero()[:, 0]

    def windows(self, allowed: Tensor, order: Tensor, length: int) -> Tensor:
        """Sequences of a length, none of which share a digit: (windows, length) int64.

        Args:
            allowed: where the digits are, (m,), as from ``allowed``.
            order: a permutation of 0 ... m - 1; the sequences are cut from it, one after the
                other, and what remains is dropped.
            length: of every sequence.

        Raises:
            ValueError: there are fewer digits than one sequence needs.
        """
        if length > len(allowed):
            raise ValueError(
                f"a sequence of {length} digits cannot be cut from {len(allowed)}: take a shorter "
                "length"
            )
        whole = len(allowed) // length * length
        return allowed[order[:whole]].view(-1, length)

    def target(self, digits: Tensor) -> Tensor:
        """t of sequences: digits (..., length) -> (..., length) or (..., 1) float64."""
        return self.scored(OPERATIONS[self.operation](digits.double(), -1))

    def scored(self, outputs: Tensor) -> Tensor:
        """Those outputs that have a target: (..., length) -> (..., length), or (..., 1)."""
        return outputs if self.prefixes else outputs[..., -1:]
