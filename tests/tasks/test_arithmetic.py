"""The tasks: sizes and windows as in the paper, targets, and what they refuse."""

import numpy as np
import pytest
import torch

from nalu.tasks.arithmetic import SimpleMultiplication, StaticFunction, as_ranges

# (subset size, overlap) of the sweeps over the input size (final paper).
SIZES = {
    4: (1, 0), 10: (2, 1), 25: (6, 3), 50: (12, 6), 75: (18, 9), 100: (25, 12), 125: (31, 15),
    150: (37, 18), 175: (43, 21), 200: (50, 25), 225: (56, 28), 250: (62, 31), 275: (68, 34),
    300: (75, 37),
}  # fmt: skip


@pytest.mark.parametrize(("input_size", "sizes"), SIZES.items())
def test_sizes_of_the_input_size_sweep(input_size, sizes):
    task = StaticFunction(input_size=input_size)
    assert (task.subset_size, task.overlap) == sizes


@pytest.mark.parametrize(("ratio", "overlap"), [(0, 0), (0.1, 2), (0.25, 6), (0.75, 18), (1, 25)])
def test_overlap_is_a_share_of_the_subset(ratio, overlap):
    assert StaticFunction(overlap_ratio=ratio).overlap == overlap


def test_windows_at_the_first_and_last_offset():
    task = StaticFunction()
    assert task.offsets == 63
    assert task.subsets(0) == ((0, 25), (13, 38))
    assert task.subsets(62) == ((62, 87), (75, 100))


@pytest.mark.parametrize(
    ("operation", "target"),
    [("add", 10), ("sub", -4), ("mul", 21), ("div", 3 / 7), ("sqrt", 3**0.5), ("square", 9)],
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_targets(operation, target, kind):
    task = StaticFunction(operation, input_size=5, subset_ratio=0.4, overlap_ratio=0.5)
    x = kind([[9.0, 1.0, 2.0, 5.0, 9.0]])  # a = 1 + 2, b = 2 + 5
    assert task.subsets(1) == ((1, 3), (2, 4))
    assert task.target(x, 1).shape == (1, 1)
    assert task.target(x, 1).item() == pytest.approx(target)


def test_target_of_simple_multiplication():
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert SimpleMultiplication().target(x, 0).tolist() == [[[30.0]]]


def test_ranges_are_one_pair_or_several():
    assert as_ranges((1, 2), "r") == ((1.0, 2.0),)
    assert as_ranges([[-6, -2], [2, 6]], "r") == ((-6.0, -2.0), (2.0, 6.0))
    assert as_ranges(np.array([[-6, -2], [2, 6]]), "r") == ((-6.0, -2.0), (2.0, 6.0))
    assert str(as_ranges((-0.0, 1), "r")) == "((0.0, 1.0),)"  # equal runs have one key
    assert StaticFunction(interpolation=(0, 1)) == StaticFunction(interpolation=((0, 1),))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operation": "plus"}, "operation is 'plus': it must be one of add, sub"),
        ({"input_size": 0}, "input_size is 0"),
        ({"input_size": 10.0}, "input_size is 10.0"),
        ({"subset_ratio": 1.5}, "subset_ratio is 1.5"),
        ({"subset_ratio": 0.001}, "at least one of the 100 inputs"),
        ({"overlap_ratio": -0.1}, "overlap_ratio is -0.1"),
        ({"subset_ratio": 0.6, "overlap_ratio": 0.0}, "need 120 inputs, and there are 100"),
        ({"interpolation": (2, 1)}, "interpolation is \\(2, 1\\)"),
        ({"extrapolation": (1, float("inf"))}, "extrapolation is"),
        ({"extrapolation": ()}, "extrapolation is"),
        ({"extrapolation": (1, 2, 3)}, "extrapolation is"),
        ({"operation": "sqrt", "interpolation": (-2, 2)}, "'sqrt', of sums from -2.0 on"),
    ],
)
def test_messages_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        StaticFunction(**fields)
