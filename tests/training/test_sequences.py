"""Sequential MNIST trained: seeds side by side or alone, interrupted or not, diverging or not."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from nalu.tasks import mnist
from nalu.tasks.mnist import Digits, SequentialMNIST, load, normalised
from nalu.training import random
from nalu.training.protocol import FINAL_SEQUENCE, Draft, Final, Optimizer
from nalu.training.run import run_of
from nalu.training.sequence_run import EXACT, LSTMS, Reader, SequenceRun
from nalu.training.sequences import (
    Sequences,
    predictions,
    train,
    windows_and_targets,
)
from nalu.training.training import _read

PRODUCT = dataclasses.replace(SequentialMNIST.of("product"), test_lengths=(1, 2, 5))
SUM = dataclasses.replace(SequentialMNIST.of("sum"), train_length=3, test_lengths=(1, 4))
RUN = SequenceRun("NMU", PRODUCT, epochs=2, evaluate_every=1, batch_size=32, z_strength=1.0)
UNITS = (
    "NAC", "NACMul", "NALU", "NALU (separate)", "NAU", "NMU", "NACMulSigma", "NACMulNMU", "Linear",
    *LSTMS, EXACT,
)  # fmt: skip


@pytest.fixture(scope="module")
def few() -> dict[str, Digits]:
    sizes = {"training": 150, "validation": 60, "test": 60}
    return {split: Digits(*(t[: sizes[split]] for t in part)) for split, part in load().items()}


def errors_of(log, at=0):
    """At each test length, of one evaluation."""
    return [log[name][at] for name in log.columns if name.startswith("test_error")]


def digits_of(log):
    """What is read from each digit, (10, outputs), in the first evaluation."""
    return np.reshape([log[n][0] for n in log.columns if n.startswith("digit")], (10, -1))


def same(logs, others) -> bool:
    """Bit for bit."""
    return all(
        np.array_equal(one.rows, other.rows, equal_nan=True)
        and np.array_equal(one.parameters, other.parameters)
        and one.diverged_at == other.diverged_at
        for one, other in zip(logs, others, strict=True)
    )


def in_training(runs, digits) -> Sequences:
    return Sequences(runs, torch.device("cpu"), torch.float64, digits)


# The specification


def test_names_protocols_and_settings_become_canonical():
    run = SequenceRun("NAC•", PRODUCT)
    assert (run.unit, run.protocol, run.model) == ("NACMul", FINAL_SEQUENCE, "NACMul")
    assert (run.cnn_outputs, run.trained_state) == (1, False)
    draft = SequenceRun("nmu", PRODUCT, "draft")
    assert (draft.protocol, draft.cnn_outputs, draft.trained_state) == (Draft(), 10, True)
    assert draft.but(protocol=Draft()) == draft
    assert draft.but(protocol="final") == SequenceRun("nmu", PRODUCT)
    assert draft.but(unit="LSTM") == SequenceRun("LSTM", PRODUCT, "draft")
    assert draft.but(cnn_outputs=3).but(protocol="final").cnn_outputs == 3
    assert not SequenceRun("LSTM", PRODUCT, "draft").trained_state
    assert SequenceRun(EXACT, PRODUCT, "draft").cnn_outputs == 1
    assert SequenceRun("NMU", PRODUCT, epochs=12).evaluations == 3


@pytest.mark.parametrize("protocol", ["draft", "final", Final(1.0, 2, 3)])
@pytest.mark.parametrize("unit", ["NMU", "LSTM", EXACT])
def test_a_specification_gives_the_run_back(unit, protocol):
    run = SequenceRun(unit, SUM, protocol, seed=3)
    specification = run.specification()
    assert specification["seed"] == 3
    through_json = json.loads(json.dumps(specification))
    assert through_json == specification  # plain types only
    assert run_of(through_json) == run


def test_every_field_but_the_labels_is_in_the_specification():
    fields = {field.name for field in dataclasses.fields(SequenceRun)}
    named = RUN.but(optimizer=Optimizer(clip_norm=1.0)).specification().keys()
    assert fields == named - {"mathematics"} | {"experiment", "model"}
    assert "optimizer" not in RUN.specification()  # that of all runs before it was a field
    assert RUN.but(experiment="e", model="m").specification() == RUN.specification()


@pytest.mark.parametrize(
    "rules", [Optimizer(rates=(0.1, 0.2)), Optimizer(restart_every=5)], ids=["rates", "restarts"]
)
def test_rules_that_no_sequence_is_trained_by_are_refused(rules):
    with pytest.raises(ValueError, match="runs of sequential MNIST have none of these"):
        RUN.but(optimizer=rules)


@pytest.mark.parametrize("rule", ["RMSprop", "SGD"])
def test_sequences_are_trained_by_other_optimisers(rule, few):
    first, other = (
        train([RUN.but(optimizer=Optimizer(name))], digits=few)[0] for name in ("Adam", rule)
    )
    assert not np.array_equal(first.parameters, other.parameters)
    assert np.isfinite(other.parameters).all()


def test_the_key_is_the_same_on_every_machine():
    """If this fails, recorded runs are lost: raise ``mathematics`` only when results change."""
    run = SequenceRun("LSTM (read-out)", SequentialMNIST.of("sum"), seed=5)
    assert run.key("sequences") == "mnist-LSTM_read_out_-sum-final-sequences-c008fdfd9ac97fc1-5"
    assert run.but(seed=6).kind("sequences") == run.kind("sequences")
    assert run.but(epochs=5).kind("sequences") != run.kind("sequences")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "XYZ"}, "no unit is named 'XYZ'"),
        ({"task": "sum"}, "task is 'sum': it must be a SequentialMNIST"),
        ({"protocol": "finnal"}, "no protocol is named 'finnal'"),
        ({"epochs": -1}, "epochs is -1: it must be a whole number from 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"seed": 2**32}, "seed is"),
        ({"cnn_outputs": 0}, "cnn_outputs is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"evaluate_every": 0}, "evaluate_every is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be positive"),
        ({"z_strength": -1.0}, "z_strength is -1.0: it must be 0 or more"),
        ({"z_strength": float("nan")}, "z_strength is nan"),
        (
            {"unit": "NACMul"},
            "R_z is defined for NAC, NACMulNMU, NAU, NMU only: it must be 0 for NACMul",
        ),
        ({"unit": EXACT, "z_strength": 0.0, "cnn_outputs": 2}, "cnn_outputs is 2: it must be 1"),
        ({"unit": "LSTM", "z_strength": 0.0, "trained_state": True}, "trained_state is True"),
    ],
)
def test_messages_name_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        RUN.but(**fields)


@pytest.mark.parametrize("protocol", ["draft", "final"])
@pytest.mark.parametrize("unit", UNITS)
def test_models_are_as_the_paper_has_them(unit, protocol):
    run = SequenceRun(unit, PRODUCT, protocol)
    model = run.build()
    values, states = model(torch.zeros(3, 4, 28, 28))
    assert values.shape == (3, 4, run.cnn_outputs)
    assert states.shape == (3, 4, 1)
    if unit in LSTMS:
        assert model.accumulator.weight_hh.shape[-1] == (1 if unit == "LSTM" else 32)
    else:
        start = model.accumulator.initial
        assert start.requires_grad == run.trained_state
        multiplies = unit in ("NACMul", "NACMulSigma", "NACMulNMU", "NMU", EXACT)
        assert start.item() == (not run.trained_state and multiplies)
    again, other = run.build(), run.but(seed=1).build()
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert not torch.equal(model.reader.conv1.weight, other.reader.conv1.weight)


def test_the_reader_is_the_cnn_of_the_paper():
    """Layer by layer in the paper's order: the rectifier before the pool, channels first."""
    reader = Reader(outputs=10).double()
    paper = torch.nn.Sequential(
        reader.conv1, torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        reader.conv2, torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), reader.hidden, torch.nn.ReLU(), reader.output,
    )  # fmt: skip
    images = normalised(load()["test"].images[:9]).double()
    torch.testing.assert_close(reader(images), paper(images[:, None]))
    gradients = [
        torch.autograd.grad(f.square().sum(), [*reader.parameters()])
        for f in (reader(images), paper(images[:, None]))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


# What is trained on


def test_sequences_are_fixed_per_seed_and_evaluation_sets_shared(few):
    runs = [RUN.but(seed=seed) for seed in (0, 1)]
    training, alone = in_training(runs, few), in_training(runs[1:], few)
    assert torch.equal(training.windows[1:], alone.windows)
    assert not torch.equal(training.windows[0], training.windows[1])
    assert all(map(torch.equal, training.fixed, alone.fixed))
    labels = few["training"].labels[training.windows]
    assert labels.min() == 1
    assert all(len(windows.unique()) == windows.numel() for windows in training.windows)


def test_an_epoch_trains_on_every_sequence_once_and_each_in_another_order(few, monkeypatch):
    training = in_training([RUN], few)
    batches = []
    monkeypatch.setattr(training, "step", lambda *given: batches.append(given))
    for _ in range(2):
        training.advance(lambda steps: None)
    steps = [step for step, _ in batches]
    assert steps == list(range(2 * training.steps_a_round))
    first, second = (
        torch.cat([batch[0] for _, batch in part])
        for part in (batches[: training.steps_a_round], batches[training.steps_a_round :])
    )
    assert not torch.equal(first, second)
    rows = {tuple(row) for row in training.windows[0].tolist()}
    assert {tuple(row) for row in first.tolist()} == {tuple(row) for row in second.tolist()} == rows
    assert len(first) == len(rows)


# One step, written out


@pytest.mark.parametrize(
    "run",
    [
        RUN.but(protocol=Final(5.0, 0, 4)),
        SequenceRun("NAU", SUM, Draft(3.0, 0.5), z_strength=0.3, epochs=2, batch_size=32),
        SequenceRun("LSTM (read-out)", SUM, "draft", epochs=2, batch_size=32),
    ],
)
def test_steps_are_those_of_a_plain_loop(run, few):
    """Ordinary modules and Adam, penalties and projection by hand."""
    run = run.but(task=dataclasses.replace(run.task, prefixes=run.protocol.name == "final"))
    training = in_training([run], few)
    model = run.build().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = few["training"]
    unit = getattr(model.accumulator, "unit", None)
    for step in range(1, 7):
        epoch, i = divmod(step - 1, training.steps_a_round)
        windows = training.windows[0]
        order = random.permutations(training.seeds, random.SHUFFLE, epoch, len(windows))[0]
        batch = windows[order].split(32)[i]
        values, states = model(normalised(images[batch]).double())
        digits = labels[batch].double()
        target = digits.cumprod(1) if run.task.operation == "product" else digits.cumsum(1)
        error = states[..., 0] - target
        loss = (error if run.task.prefixes else error[:, -1]).square().mean()
        if unit is not None:
            w = unit.w_hat
            if run.protocol.name == "final":
                distance = torch.minimum(w, 1 - w)
                loss = loss + 5.0 * min(step / 4, 1) * distance.mean()
            else:
                strength = 3.0 * (1 - math.exp(-0.5 * epoch))
                loss = loss + strength * (w**2 * (1 - w.abs()) ** 2).mean()
                loss = loss + ((w.abs() - 1).clamp(min=0) ** 2).mean()
            start = model.accumulator.initial.expand(len(batch), 1, 1)
            before = torch.cat([start, states[:, :-1]], 1)
            mean = torch.cat([values, before], -1).mean((0, 1))
            r_z = ((1 - w.abs()) * (mean - unit.neutral) ** 2).mean()
            loss = loss + run.z_strength * r_z
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if unit is not None and run.protocol.name == "final":
            unit.w_hat.data.clamp_(0, 1)
    while training.at * training.steps_a_round < 6:
        training.advance(lambda steps: None)
    assert training.at * training.steps_a_round == 6
    ours = dict(zip(dict(model.named_parameters()), training.parameters.values(), strict=True))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name][0], parameter, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize("protocol", [Final(50.0, 0, 1), Draft()])
def test_weights_are_projected_in_the_final_protocol_only(protocol, seeds, few):
    """Steps of 0.3 leave the interval at once."""
    run = RUN.but(protocol=protocol, learning_rate=0.3, trained_state=False, cnn_outputs=1)
    training = in_training([run.but(seed=seed) for seed in seeds], few)
    training.advance(lambda steps: None)
    w_hat = training.parameters["model.accumulator.unit.w_hat"]
    outside = (w_hat < 0) | (w_hat > 1)
    assert outside.any() == (protocol == Draft())
    assert ((w_hat == 0) | (w_hat == 1)).any() != (protocol == Draft())


# Evaluation


@pytest.mark.parametrize("protocol", ["draft", "final"])
def test_an_evaluation_is_that_of_the_model_on_every_sequence(protocol, few):
    """Images through the whole model, sequence by sequence, in place of values read once."""
    task = dataclasses.replace(SUM, prefixes=protocol == "final")
    run = SequenceRun("NAU", task, protocol, epochs=0, seed=4)
    log = train([run], dtype=torch.float64, digits=few)[0]
    assert (list(log["epoch"]), list(log["step"]), log.diverged_at) == ([0], [0], None)
    training, model = in_training([run], few), run.build().double()
    for (split, _), windows, measured in zip(
        training.sets, training.fixed, [log["validation_error"][0], *errors_of(log)], strict=True
    ):
        images, labels = few[split]
        errors = []
        for window in windows:
            _, states = model(normalised(images[window])[None].double())
            total = labels[window].double().cumsum(0)
            error = (states[0, :, 0] - total).square()
            errors.append(error.mean() if task.prefixes else error[-1])
        assert measured == pytest.approx(torch.stack(errors).mean().item(), rel=1e-12)
    values = model.reader(normalised(few["validation"].images).double())
    sevens = values[few["validation"].labels == 7].mean(0)
    assert digits_of(log)[7] == pytest.approx(sevens.tolist())
    assert len(digits_of(log)) == 10
    weight = model.accumulator.unit.weight.abs()
    assert log["sparsity_error"][0] == pytest.approx(torch.minimum(weight, 1 - weight).max().item())


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_log_is_a_table(outputs, few):
    run = RUN.but(epochs=0, cnn_outputs=outputs)
    log = train([run], digits=few)[0]
    log["test_error_2"][0] = 1e39
    table = log.table()
    assert (table.shape, table.dtype) == ((1, 4 + 3 + 10 * outputs), np.float32)
    at = dict(zip(run.columns(), table[0], strict=True))
    assert (at["epoch"], at["step"], at["test_error_2"]) == (0, 0, math.inf)
    assert at["test_error_5"] == pytest.approx(log["test_error_5"][0])
    nine = "digit_9" if outputs == 1 else "digit_9_2"
    assert at[nine] == pytest.approx(log[nine][0])


def test_predictions_are_those_that_are_scored(few, monkeypatch):
    monkeypatch.setattr(mnist, "load", lambda: few)
    log = train([RUN])[0]
    model = RUN.build()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(log.parameters), model.parameters())
    for length, error in zip(PRODUCT.test_lengths, errors_of(log, -1), strict=True):
        windows, targets = windows_and_targets(PRODUCT, length)
        states = predictions(model, windows)
        assert states.shape == targets.shape == windows.shape
        assert torch.equal(targets[:, -1], few["test"].labels[windows].double().prod(1))
        assert (states - targets).square().mean().item() == pytest.approx(error, rel=1e-4)


def test_squared_errors_beyond_float32_are_finite(few):
    task = dataclasses.replace(PRODUCT, digits=(9,), train_length=1, test_lengths=(3,))
    training = in_training([SequenceRun(EXACT, task, epochs=0)], few)
    training.dtype = torch.float32
    for name, parameter in training.parameters.items():
        parameter.data = parameter.data.float()
        if name.endswith("output.bias"):
            parameter.data.fill_(1e10)
    training.steps, training.rows = [0], [training.evaluation()]
    assert errors_of(training.logs()[0])[0] == pytest.approx(1e60 / 3, rel=1e-2)


# Many seeds, interruptions, divergence


@pytest.mark.parametrize("unit", UNITS)
def test_seeds_side_by_side_are_as_one_by_one(unit, few):
    """In float64, where two epochs of Adam leave rounding at 10⁻⁷ of the errors."""
    z_strength = 1.0 if unit in ("NAC", "NAU", "NMU") else 0.0
    run = RUN.but(unit=unit, model="", protocol=Final(1.0, 0, 4), z_strength=z_strength)
    few = {**few, "training": Digits(*(t[:80] for t in few["training"]))}
    runs = [run.but(seed=seed) for seed in (0, 7)]
    ticks = []
    together = train(runs, ticks.append, torch.float64, digits=few)
    assert sum(ticks) == 2 * together[0]["step"][-1]
    for log, run in zip(together, runs, strict=True):
        alone = train([run], dtype=torch.float64, digits=few)[0]
        assert list(log["epoch"]) == [0, 1, 2]
        assert np.array_equal(log["step"], alone["step"])
        np.testing.assert_allclose(log.rows, alone.rows, rtol=1e-6, atol=1e-7)
        assert math.isnan(log["sparsity_error"][0]) == (unit in LSTMS)
    assert not np.array_equal(together[0]["validation_error"], together[1]["validation_error"])


class Stop(Exception):
    pass


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_a_resumed_training_has_the_same_bits_as_one_without_interruption(seeds, few, tmp_path):
    runs = [RUN.but(seed=seed, epochs=3) for seed in seeds]
    whole, broken = tmp_path / "whole", tmp_path / "sub" / "broken"
    expected = train(runs, checkpoint=whole, digits=few)
    for steps in (4, 5):  # in the second epoch, and in the last
        left = iter(range(steps))

        def tick(done, left=left):
            if next(left, None) is None:
                raise Stop

        with pytest.raises(Stop):
            train(runs, tick, checkpoint=broken, digits=few)
    assert same(train(runs, checkpoint=broken, digits=few), expected)
    (ours, ours_header), (theirs, theirs_header) = _read(broken), _read(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours_header | {"seconds": 0} == theirs_header | {"seconds": 0}
    assert [path.name for path in broken.parent.iterdir()] == ["broken"]
    ticks = []
    again = train(runs, ticks.append, checkpoint=whole, digits=few)  # read, not trained
    assert same(again, expected)
    assert ticks == [len(runs) * expected[0]["step"][-1]]
    assert again[0].earlier > expected[0].earlier == 0.0


def test_a_training_can_go_on_to_more_epochs(few, tmp_path):
    path = tmp_path / "checkpoint"
    begun = train([RUN.but(epochs=1)], checkpoint=path, digits=few)[0]
    log = train([RUN.but(epochs=2)], checkpoint=path, digits=few)[0]
    assert same([log], train([RUN.but(epochs=2)], digits=few))
    assert np.array_equal(log.rows[:2], begun.rows)
    with pytest.raises(ValueError, match="has trained 2 epochs already, and 1 are asked for"):
        train([RUN.but(epochs=1)], checkpoint=path, digits=few)


def test_a_log_has_the_parameters_of_the_trained_model(few):
    runs = [RUN.but(seed=seed) for seed in (0, 1)]
    for run, log in zip(runs, train(runs, digits=few), strict=True):
        model = run.build()
        parameters = torch.from_numpy(log.parameters)
        torch.nn.utils.vector_to_parameters(parameters, model.parameters())
        values = model.reader(normalised(few["validation"].images))
        threes = values[few["validation"].labels == 3].mean().item()
        assert threes == pytest.approx(log["digit_3"][-1], rel=1e-4)


def test_a_resumed_training_names_the_code_and_the_computer_of_every_part(few, tmp_path):
    path, last = tmp_path / "checkpoint", None
    for epochs, commit in enumerate(["old", "new", "new"]):
        here = {"commit": commit, "device": "this"}
        (last,) = train([RUN.but(epochs=epochs)], checkpoint=path, digits=few, provenance=here)
    assert last.provenance == {"commit": "old then new", "device": "this"}


def one_bit_flipped(content: bytes) -> bytes:
    """In a number: the file still has the form of a checkpoint."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: b"nonsense", lambda content: content[:-9],
     one_bit_flipped],
)  # fmt: skip
def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(damage, few, tmp_path):
    path = tmp_path / "checkpoint"
    train([RUN.but(epochs=0)], checkpoint=path, digits=few)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint is not a whole checkpoint.*delete it"):
        train([RUN], checkpoint=path, digits=few)


def test_what_else_the_engine_refuses(few, tmp_path):
    with pytest.raises(ValueError, match="differ in more than their seeds"):
        train([RUN, RUN.but(epochs=3)], digits=few)
    path = tmp_path / "checkpoint"
    train([RUN.but(epochs=0)], checkpoint=path, digits=few)
    with pytest.raises(ValueError, match="is the checkpoint of other runs: delete it, or name"):
        train([RUN.but(seed=1)], checkpoint=path, digits=few)
    task = dataclasses.replace(PRODUCT, test_lengths=(1000,))
    with pytest.raises(ValueError, match="a sequence of 1000 digits cannot be cut"):
        train([RUN.but(task=task)], digits=few)


def test_a_seed_that_diverges_ends_and_leaves_the_others_as_they_are(few):
    runs = [RUN.but(seed=seed) for seed in (0, 1, 2)]
    training = in_training(runs, few)
    training.rows.append(training.evaluation())
    training.advance(lambda steps: None)
    with torch.no_grad():
        training.parameters["model.reader.output.bias"][1] = 1e200  # its square is infinite
    training.advance(lambda steps: None)
    training.rows.append(training.evaluation())
    training.steps = [0, 2 * training.steps_a_round]
    logs = training.logs()
    assert [log.diverged_at for log in logs] == [None, training.steps_a_round, None]
    assert [list(log["epoch"]) for log in logs] == [[0, 2], [0], [0, 2]]
    for log, run in zip(logs[::2], runs[::2], strict=True):
        alone = train([run.but(evaluate_every=2)], dtype=torch.float64, digits=few)[0]
        np.testing.assert_allclose(log.rows, alone.rows, rtol=1e-6, atol=1e-7)


def test_a_training_of_which_nothing_is_left_ends_early(few):
    run = SequenceRun("NAU", SUM, epochs=50, evaluate_every=1, learning_rate=1e30)
    log = train([run], digits=few)[0]
    assert log.diverged_at is not None
    assert max(log["step"]) <= log.diverged_at
    assert len(log.rows) < 10
    assert np.isfinite(log.parameters).all()


@pytest.mark.parametrize(
    ("unit", "task", "left"),
    [
        ("NMU", PRODUCT, 0.5),
        ("NAU", SUM, 0.5),
        (EXACT, PRODUCT, 0.5),
        ("LSTM (read-out)", SUM, 0.9),
    ],
)
def test_a_short_training_learns(unit, task, left):
    few = {split: Digits(*(t[:600] for t in part)) for split, part in load().items()}
    run = SequenceRun(unit, task, epochs=4, evaluate_every=4, batch_size=32)
    log = train([run], digits=few)[0]
    first, last = log["validation_error"]
    assert last < left * first
