"""The specification of a run: canonical, checked, with a key that stays."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from nalu.tasks.arithmetic import SimpleMultiplication, StaticFunction
from nalu.training.authors import AuthorsStream
from nalu.training.protocol import FINAL_ADDITION, FINAL_MULTIPLICATION, Draft, Final, Optimizer
from nalu.training.run import Run, run_of

NMU = Run(("NAU", "NMU"), StaticFunction(extrapolation=(1, 6)))


def test_names_and_protocols_become_canonical():
    run = Run(("NAC+", "NAC•"), SimpleMultiplication(), "final")
    assert run.layers == ("NAC", "NACMul")
    assert run.protocol == FINAL_ADDITION
    assert Run(("nau", "nmu"), SimpleMultiplication(), "final").protocol == FINAL_MULTIPLICATION
    assert Run(("NAU", "NMU"), StaticFunction(extrapolation=(1, 6)), Draft()) == NMU


def test_other_layers_have_their_own_name_and_constants_unless_these_were_chosen():
    run = dataclasses.replace(NMU, protocol="final", model="NMU")
    other = run.but(layers=("NAU", "NAU"))
    assert (other.protocol, other.model) == (FINAL_ADDITION, "NAU → NAU")
    assert run.but(seed=1).model == "NMU"
    chosen = run.but(protocol=Final(1.0, 2, 3))
    assert chosen.but(layers=("NAU", "NAU")).protocol == Final(1.0, 2, 3)
    assert run.but(layers=("NAU", "NAU"), protocol=run.protocol, model="mine").model == "mine"


def test_equal_numbers_make_equal_keys():
    """Also those of NumPy, and in a process that has not seen the other one."""
    rules = Final(np.float32(10), np.int64(1000), 2000)
    run = NMU.but(protocol=rules, seed=np.arange(5)[4], iterations=np.int64(7))
    assert (
        run.specification()
        == NMU.but(protocol=Final(10.0, 1000, 2000), seed=4, iterations=7).specification()
    )
    assert all(type(value) is int for value in (rules.start, rules.end, run.seed, run.iterations))


def test_the_key_is_the_same_on_every_machine():
    """If this fails, recorded runs are lost: raise ``mathematics`` only when results change."""
    assert NMU.key("cpu") == "NAU-NMU-mul-100-draft-cpu-4a00d4c445c8c692-0"


def test_every_field_but_the_labels_changes_the_key():
    changes = {
        "layers": ("NAU", "NAU"), "task": StaticFunction(), "protocol": Draft(strength=0.2),
        "iterations": 7, "seed": 1, "hidden_size": 3, "learning_rate": 0.1, "batch_size": 64,
        "evaluate_every": 10, "stream": "authors", "optimizer": Optimizer(clip_value=0.1),
    }  # fmt: skip
    labels = {"experiment", "model"}
    assert {field.name for field in dataclasses.fields(Run)} == changes.keys() | labels
    keys = {NMU.but(**{name: value}).key("cpu") for name, value in changes.items()}
    assert len(keys | {NMU.key("cpu"), NMU.key("reference")}) == len(changes) + 2
    assert NMU.but(experiment="e", model="m").key("cpu") == NMU.key("cpu")


@pytest.mark.parametrize("run", [NMU, Run(("NALU", "NALU"), SimpleMultiplication(), "final", 3)])
def test_a_specification_gives_the_run_back(run):
    assert run_of(json.loads(json.dumps(run.specification()))) == run


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ("NAU", "XYZ")}, "no unit is named 'XYZ'"),
        ({"layers": "NMU"}, "layers is 'NMU'"),
        ({"layers": ()}, "names of one or more units"),
        ({"optimizer": "SGD"}, "optimizer is 'SGD': it must be an Optimizer"),
        ({"optimizer": Optimizer(rates=(0.1,))}, "must have one for each of 2 layers"),
        ({"task": "mul"}, "task is 'mul'"),
        ({"protocol": "finnal"}, "no protocol is named 'finnal'"),
        ({"iterations": -1}, "iterations is -1: it must be a whole number from 0 to 4294967295"),
        ({"iterations": 5e6}, "iterations is 5000000.0"),
        ({"iterations": 2**32}, "iterations is 4294967296: it must be a whole number from 0"),
        ({"seed": 2**32}, "seed is 4294967296: it must be a whole number from 0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be positive"),
        ({"stream": "mt"}, "stream is 'mt': it must be one of philox, authors"),
        (
            {"stream": "authors", "task": StaticFunction(interpolation=((-2, -1), (1, 2)))},
            "has single ranges, not .*-2.0.*use stream 'philox'",
        ),
        (
            {"stream": "authors", "task": StaticFunction(extrapolation=((-6, -2), (2, 6)))},
            "use stream 'philox'",
        ),
    ],
)
def test_messages_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        NMU.but(**fields)


def test_initial_parameters_depend_on_the_seed_alone_and_leave_torch_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, other = NMU.build(), NMU.but(seed=1).build()
    NMU.but(protocol=Draft(strength=0.123))  # no run had it before
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(9)
    assert torch.equal(first[0].w_hat, NMU.build()[0].w_hat)
    assert not torch.equal(first[0].w_hat, other[0].w_hat)


def test_offsets_are_drawn_evenly():
    """χ² over 63 offsets of 2000 seeds, at level 10⁻⁶; the simple task has one."""
    offsets = [NMU.but(seed=seed).offset for seed in range(2000)]
    counts = np.bincount(offsets, minlength=63)
    assert len(counts) == 63
    assert (np.square(counts - 2000 / 63) / (2000 / 63)).sum() < 126
    assert Run(("NAU", "NMU"), SimpleMultiplication(), seed=5).offset == 0


def test_the_authors_streams_follow_their_recipe():
    """The draft's script, written out."""
    owner = np.random.RandomState(4)
    offset = owner.randint(0, 63)
    train, inside, outside = (np.random.RandomState(owner.randint(0, 2**32 - 1)) for _ in range(3))
    run = NMU.but(seed=4, stream="authors")
    stream = AuthorsStream(run.task, run.seed)
    assert run.offset == offset
    for purpose, generator, ranges in (
        (0, train, run.task.interpolation),
        (1, inside, run.task.interpolation),
        (2, outside, run.task.extrapolation),
        (0, train, run.task.interpolation),
    ):
        x = generator.uniform(*ranges[0], (7, 100))
        drawn, target = stream.samples(purpose, 7, ranges)
        np.testing.assert_array_equal(drawn, x.astype(np.float32))
        np.testing.assert_array_equal(target, run.task.target(x, offset).astype(np.float32))
    torch.manual_seed(4)
    torch.nn.init.uniform_(torch.empty(2, 100), -1, 1)  # the first draw, which does not count
    torch.nn.init.uniform_(torch.empty(1, 2), -1, 1)
    r = 6**0.5 / 102**0.5
    expected = torch.nn.init.uniform_(torch.empty(2, 100), -r, r)
    torch.testing.assert_close(run.build()[0].w_hat.detach(), expected)


def test_equal_numbers_have_one_key_in_whatever_form_they_are_given():
    """1 and 1.0 are equal and hash alike, but JSON tells them apart."""

    def runs(number):
        return Run(
            ("NAU", "NMU"), StaticFunction(overlap_ratio=number(1), subset_ratio=number(1)),
            Final(number(10), 0, 1), learning_rate=number(1),
        )  # fmt: skip

    assert runs(int) == runs(float)
    assert runs(int).specification() == runs(float).specification()
    assert '"overlap_ratio": 1.0' in json.dumps(runs(int).specification())
    with pytest.raises(ValueError, match=r"overlap_ratio is '0.5': it must be a number"):
        StaticFunction(overlap_ratio="0.5")


def test_other_mathematics_is_another_run(monkeypatch):
    before = Run(("NAU", "NMU"), StaticFunction(), seed=1).specification()
    monkeypatch.setattr(Run, "mathematics", 2)
    assert Run(("NAU", "NMU"), StaticFunction(), seed=1).specification() != before
