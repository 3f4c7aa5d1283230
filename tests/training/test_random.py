"""The stream: published vectors, one address one word everywhere, uniform and independent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nalu.training import random

# philox 4x32 10 in the kat_vectors file of Random123.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
UNION = ((-6.0, -2.0), (2.0, 6.0))


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
@pytest.mark.parametrize("kind", [int, np.int64, torch.tensor])
def test_published_vectors(counter, key, words, kind):
    with np.errstate(over="ignore"):  # a wrapped product is what is meant
        drawn = random.philox(*map(kind, counter), *map(kind, key))
    assert tuple(map(int, drawn)) == words


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**63 - 1),
    purpose=st.integers(0, 6),
    step=st.integers(0, 2**32 - 1),
    row=st.integers(0, 200),
    column=st.integers(0, 10),
)
def test_every_engine_has_the_same_word_at_an_address(seed, purpose, step, row, column):
    word = random.word(seed, purpose, step, row, column)
    seeds = torch.tensor([seed])
    assert random.words(seeds, purpose, step, 201, 11)[0, row, column] == word
    uniform = random.samples(seeds, purpose, step, 201, 11)
    assert uniform[0, row, column] == (word >> 8) * 2.0**-24
    block, lane = divmod(row, random.BLOCK)
    blocks = random.blocks(seed, purpose, step, 201, 11, ((0, 1),))
    assert blocks[block, column, lane] == uniform[0, row, column]


@pytest.mark.parametrize("ranges", [((1, 2),), ((0.1, 0.2),), ((10, 20),), UNION])
def test_compiled_and_torch_samples_are_equal_to_the_bit(ranges):
    seeds = torch.tensor([0, 7, 2**40 + 1])
    compiled = random.samples(seeds, random.TEST, 5, 300, 10, ranges)
    assert torch.equal(compiled, random.scale(random.words(seeds, random.TEST, 5, 300, 10), ranges))


def test_a_sample_does_not_depend_on_what_is_drawn_beside_it():
    alone = random.samples(torch.tensor([3]), 0, 9, 5, 6)
    crowd = random.samples(torch.tensor([2, 3, 4]), 0, 9, 200, 50)
    assert torch.equal(alone[0], crowd[1, :5, :6])


def test_rows_after_the_last_repeat_it():
    x = random.blocks(0, 0, 0, 130, 4, ((0, 1),))
    assert x.shape == (2, 4, random.BLOCK)
    assert (x[1, :, 2:] == x[1, :, 1:2]).all()
    assert not (x[1, :, 0] == x[1, :, 1]).any()


def uniforms(**address) -> np.ndarray:
    """2¹⁸ numbers, (512, 512), of a seed, purpose and step."""
    address = {"seed": 1, "purpose": 0, "step": 0, **address}
    seed = torch.tensor([address["seed"]])
    return random.samples(seed, address["purpose"], address["step"], 512, 512)[0].double().numpy()


@pytest.mark.parametrize("bits", [256, 4096, 2**24])
def test_numbers_are_uniform(bits):
    """χ² over 256 bins of the upper, middle and lower 8 of 24 bits, at level 10⁻⁶.

    Were half of the bins 2 % fuller than the other half, the statistic (mean 255, sd 22.6)
    would grow by 2¹⁸ · 0.01² = 26 per test; at 5 % by 164, which is found with power > 0.9.
    """
    bins = (uniforms() * bits).astype(np.int64) % 256
    counts = np.bincount(bins.ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2}, {"seed": 1 + 2**32}, {"purpose": 1}, {"step": 1}, {"step": 2**20},
        "next row", "next column", "next quad",
    ],
    ids=str,
)  # fmt: skip
def test_neighbours_in_the_stream_are_independent(other):
    """Three correlations at 5 sd each: one above 0.014 is found with power 0.98."""
    x = uniforms()
    if other == "next row":
        x, y = x[:-1], x[1:]
    elif other == "next column":
        x, y = x[:, :-1], x[:, 1:]
    elif other == "next quad":
        x, y = x[:, :-4], x[:, 4:]
    else:
        y = uniforms(**other)
    for transform in (lambda u: u, lambda u: (u * 2**24).astype(np.int64) % 2, np.square):
        r = np.corrcoef(transform(x).ravel(), transform(y).ravel())[0, 1]
        assert abs(r) < 5 / np.sqrt(x.size)


def test_samples_fill_each_range_of_a_union_alike():
    x = random.samples(torch.tensor([0]), 0, 0, 512, 512, UNION).flatten()
    right = x[x > 0]
    assert (x < 0).sum() + len(right) == x.numel()
    assert abs(len(right) / x.numel() - 0.5) < 5 * 0.5 / x.numel() ** 0.5
    assert right.min() >= 2
    assert right.max() < 6
    assert abs(right.mean() - 4) < 5 * (4 / 12**0.5) / len(right) ** 0.5


def test_permutations_are_orders_that_each_address_has_of_its_own():
    seeds = torch.tensor([0, 1, 2**40])
    orders = random.permutations(seeds, random.SHUFFLE, 3, 1000)
    assert torch.equal(orders.sort(-1).values, torch.arange(1000).expand(3, -1))
    assert torch.equal(orders[1], random.permutations(seeds[1:2], random.SHUFFLE, 3, 1000)[0])
    others = [
        random.permutations(seeds, random.SHUFFLE, 4, 1000),
        random.permutations(seeds, random.TRAINING, 3, 1000),
        random.permutations(seeds + 5, random.SHUFFLE, 3, 1000),
    ]
    for other in others:
        assert (orders == other).double().mean() < 0.01


def test_equal_words_keep_their_order(monkeypatch):
    tied = torch.tensor([[[5, 1, 5, 1, 0]]])
    monkeypatch.setattr(random, "words", lambda *address: tied)
    assert random.permutations(torch.tensor([0]), random.TEST, 0, 5).tolist() == [[4, 1, 3, 0, 2]]
