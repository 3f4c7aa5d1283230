"""What only the reference engine trains: any number of layers, other optimisers, noise, ranges."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nalu.tasks.arithmetic import StaticFunction
from nalu.training import random, reference
from nalu.training.protocol import Final, Optimizer
from nalu.training.run import Run
from nalu.units import LAYERS, NAU, NMU

TASK = StaticFunction("mul", 2, 0.5, 0.0)
RUN = Run(("NMU",), TASK, Final(1.0, 0, 50), iterations=40, evaluate_every=10, batch_size=16)
DEEP = RUN.but(layers=("NAU", "NAC", "NMU"), task=StaticFunction("add", 8), hidden_size=3)


def trained(runs, **options):
    return reference.train(runs, dtype=torch.float64, device="cpu", **options)


def same(one, other) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.parameters, other.parameters)


class Steps:
    """A run as a plain loop in float64, with its samples; a test says how a step is made."""

    def __init__(self, run):
        self.run, self.model = run, run.build().double()
        self.samples = reference.Samples([run], torch.device("cpu"), torch.float64)

    def loss(self, step):
        x, target = self.samples(random.TRAINING, step, self.run.batch_size)
        loss = (self.model(x[0]) - target[0]).square().mean()
        for unit in self.model:
            if hasattr(unit, "interval"):
                loss = loss + self.run.protocol.penalty(unit, step)
        return loss

    def project(self):
        for unit in self.model:
            if hasattr(unit, "interval"):
                unit.project_()

    def parameters(self):
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().numpy()


@pytest.mark.parametrize("run", [RUN, DEEP], ids=["one layer", "three"])
def test_models_of_any_number_of_layers(run):
    steps = Steps(run)
    assert [u.in_features for u in steps.model] == run.sizes[:-1]
    optimizer = torch.optim.Adam(steps.model.parameters(), lr=run.learning_rate)
    for step in range(run.steps):
        optimizer.zero_grad()
        steps.loss(step).backward()
        optimizer.step()
        steps.project()
    (log,) = trained([run])
    np.testing.assert_allclose(log.parameters, steps.parameters(), rtol=1e-9)
    assert list(log["step"]) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("rules", "make"),
    [
        (Optimizer("SGD", rates=(0.1, 0.01)), lambda a, b: torch.optim.SGD([
            {"params": a, "lr": 0.1}, {"params": b, "lr": 0.01}])),
        (Optimizer("RMSprop"), lambda a, b: torch.optim.RMSprop([*a, *b], 1e-3, 0.9, 1e-10)),
        (Optimizer(clip_value=0.02), lambda a, b: torch.optim.Adam([*a, *b], 1e-3)),
        (Optimizer(clip_norm=0.05), lambda a, b: torch.optim.Adam([*a, *b], 1e-3)),
    ],
    ids=["rates", "RMSprop", "value", "norm"],
)  # fmt: skip
def test_an_optimiser_is_part_of_a_run(rules, make):
    """Two runs side by side, each clipped by itself, as PyTorch's own functions do it."""
    first = RUN.but(layers=("NAU", "NMU"), optimizer=rules, task=StaticFunction("mul", 4))
    runs = [first, first.but(seed=1)]
    for run, log in zip(runs, trained(runs), strict=True):
        steps = Steps(run)
        optimizer = make(*(list(unit.parameters()) for unit in steps.model))
        for step in range(run.steps):
            optimizer.zero_grad()
            steps.loss(step).backward()
            if rules.clip_value:
                nn.utils.clip_grad_value_(steps.model.parameters(), rules.clip_value)
            if rules.clip_norm:
                nn.utils.clip_grad_norm_(steps.model.parameters(), rules.clip_norm)
            optimizer.step()
            steps.project()
        np.testing.assert_allclose(log.parameters, steps.parameters(), rtol=1e-9)


def test_a_unit_says_how_its_paper_trains_it(monkeypatch):
    class Fast(NAU):
        optimizer = {"rate": 1.0, "rule": "SGD", "clip_norm": 1.0}

    monkeypatch.setitem(LAYERS, "Fast", Fast)
    run = RUN.but(layers=("NMU", "Fast"))
    assert run.optimizer == Optimizer("SGD", rates=(1e-3, 1.0), clip_norm=1.0)
    assert run.but(learning_rate=0.1).optimizer.rates == (0.1, 1.0)
    assert run.but(layers=("NMU",)) == RUN
    assert RUN.but(optimizer=Optimizer(clip_norm=2.0)).but(layers=("Fast",)).optimizer.rates is None


def test_units_that_are_trained_by_different_rules_need_a_word(monkeypatch):
    for name, rule in (("One", "SGD"), ("Other", "RMSprop")):
        monkeypatch.setitem(LAYERS, name, type(name, (NAU,), {"optimizer": {"rule": rule}}))
    with pytest.raises(ValueError, match="One, Other are trained by different rules: name an opt"):
        RUN.but(layers=("One", "Other"))
    assert RUN.but(layers=("One", "Other"), optimizer=Optimizer()).optimizer == Optimizer()


def test_equal_rules_are_alike():
    """Rates that are all the run's, and patience without tests, say nothing."""
    assert RUN.but(optimizer=Optimizer(rates=(1e-3,))) == RUN
    assert RUN.but(optimizer=Optimizer(patience=7)) == RUN


def test_a_run_begins_anew_with_other_parameters_and_no_moments():
    """Errors of ranges that no weight fits stay far above 1; it begins anew at steps 10 and 20."""
    task = StaticFunction("add", 2, 0.5, 0.0, (10, 20), (20, 40))
    rules = Optimizer(restart_every=10, patience=5)
    run = RUN.but(task=task, optimizer=rules, iterations=22, learning_rate=1e-6)
    (log,) = trained([run])
    fresh = nn.utils.parameters_to_vector(run.build(2).parameters()).detach().numpy()
    first = nn.utils.parameters_to_vector(run.build().parameters()).detach().numpy()
    assert np.abs(log.parameters - fresh).max() < 1e-5
    assert np.abs(log.parameters - first).max() > 1e-2
    assert len({reference.beside(each) for each in (run, run.but(seed=1))}) == 2


@pytest.mark.parametrize(
    ("errors", "again"),
    [
        ([3.0] * 4, False),  # too few
        ([3.0] * 6, True),
        ([9.0] * 3 + [3.0] * 3, False),  # still falling
        ([0.5] * 6, False),  # small
    ],
)
def test_when_a_run_begins_anew(errors, again):
    assert Optimizer(restart_every=1, patience=5).starts_anew(errors) == again


class Noisy(NMU):
    noisy = True

    def forward(self, x, noise=None):
        return super().forward(x if noise is None else x * (1 + noise))


def test_noise_has_an_address_in_the_stream_and_is_of_training_alone(monkeypatch):
    """A run is the same beside others; its steps are those of inputs with the noise in them."""
    monkeypatch.setitem(LAYERS, "Noisy", Noisy)
    runs = [RUN.but(layers=("NAU", "Noisy"), seed=seed, hidden_size=3) for seed in (0, 1)]
    logs = trained(runs)
    for run, log in zip(runs, logs, strict=True):
        np.testing.assert_allclose(trained([run])[0].parameters, log.parameters, rtol=1e-12)
        steps = Steps(run)
        optimizer = torch.optim.Adam(steps.model.parameters(), lr=run.learning_rate)
        seed = torch.tensor([run.seed])
        for step in range(run.steps):
            noise = random.samples(seed, random.NOISE, step, run.batch_size, 3)[0].double()
            x, target = steps.samples(random.TRAINING, step, run.batch_size)
            first, second = steps.model
            error = (second(first(x[0]), noise) - target[0]).square().mean()
            optimizer.zero_grad()
            (error + sum(run.protocol.penalty(unit, step) for unit in steps.model)).backward()
            optimizer.step()
            steps.project()
        np.testing.assert_allclose(log.parameters, steps.parameters(), rtol=1e-9)
    plain = trained([runs[0].but(layers=("NAU", "NMU"))])[0]
    assert plain["interpolation_error"][0] == logs[0]["interpolation_error"][0]
    assert plain["interpolation_error"][1] != logs[0]["interpolation_error"][1]


@pytest.mark.parametrize("protocol", ["draft", "final"])
def test_runs_of_other_ranges_and_windows_go_side_by_side(protocol):
    run = Run(("NAU", "NMU"), StaticFunction("mul", 8), protocol, 20, evaluate_every=10)
    tasks = [
        run.task,
        dataclasses.replace(run.task, interpolation=(-2, 2), extrapolation=((-6, -2), (2, 6))),
        dataclasses.replace(run.task, overlap_ratio=0.0, subset_ratio=0.5),
    ]
    runs = [run.but(task=task, seed=seed) for task in tasks for seed in (0, 1)]
    assert len(set(map(reference.beside, runs))) == 1
    for run, log in zip(runs, trained(runs), strict=True):
        (alone,) = trained([run])
        np.testing.assert_allclose(log.rows, alone.rows, rtol=1e-9)
        np.testing.assert_allclose(log.parameters, alone.parameters, rtol=1e-9)


@pytest.mark.parametrize(
    "change", [{"layers": ("NAU",)}, {"protocol": "draft"}, {"hidden_size": 5}, {"iterations": 7}]
)
def test_runs_of_other_shapes_or_rules_do_not(change):
    with pytest.raises(ValueError, match="differ in seed, ranges and windows only"):
        reference.train([DEEP, DEEP.but(**change)])


class Stop(Exception):
    pass


def test_a_stream_that_is_read_from_its_beginning_has_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(reference.Arithmetic, "saved_after", 0.0)
    run = Run(("NAU", "NMU"), StaticFunction("mul", 4), "draft", 20, stream="authors")
    reference.train([run], checkpoint=tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run", [DEEP, RUN.but(optimizer=Optimizer(restart_every=10, patience=5))])
def test_a_resumed_training_has_the_same_bits(run, tmp_path, monkeypatch):
    monkeypatch.setattr(reference.Arithmetic, "saved_after", 0.0)
    path, ticks = tmp_path / "checkpoint", []

    def tick(steps):
        ticks.append(steps)
        if sum(ticks) > 25:
            raise Stop

    with pytest.raises(Stop):
        reference.train([run], tick, checkpoint=path)
    assert path.exists()
    resumed = []
    (log,) = reference.train([run], resumed.append, checkpoint=path)
    assert resumed[0] == 20  # what the checkpoint had
    assert sum(resumed) == run.steps
    assert same(log, reference.train([run])[0])


def test_short_trainings_leave_no_checkpoint(tmp_path):
    reference.train([RUN], checkpoint=tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []
