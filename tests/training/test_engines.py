"""The compiled engine against the reference in float64, on the same data."""

import itertools

import numpy as np
import pytest
import torch

from nalu.experiments import MODELS
from nalu.tasks.arithmetic import OPERATIONS, SimpleMultiplication, StaticFunction
from nalu.training import cpu, reference
from nalu.training.layers import KINDS
from nalu.training.protocol import Draft, Final
from nalu.training.run import Run

COMPILED = [model for model, layers in MODELS.items() if set(layers) <= set(KINDS)]

# Regularisers that act from the first steps on; the paper's begin after thousands.
SHARP = {"draft": Draft(strength=1.0, rate=0.1), "final": Final(strength=1.0, start=0, end=50)}
SMALL = StaticFunction("mul", input_size=10, extrapolation=(1, 6))


def agree(run: Run) -> None:
    """float64 to rounding; float32 as far from the truth as PyTorch's own float32."""
    truth = reference.train([run], dtype=torch.float64)[0]
    double = cpu.train([run], dtype="float64")[0]
    assert double.diverged_at == truth.diverged_at
    np.testing.assert_array_equal(double["step"], truth["step"])
    # Adam divides by gradients, also by tiny ones, and so magnifies their last bits.
    np.testing.assert_allclose(double.parameters, truth.parameters, rtol=1e-6, atol=1e-6)
    for name in ("interpolation_error", "extrapolation_error", "sparsity_error"):
        measured, right = double[name], truth[name]
        np.testing.assert_allclose(measured, right, rtol=1e-5, atol=1e-10)

    def distance(log):
        return np.abs(log.parameters - truth.parameters).max() / np.abs(truth.parameters).max()

    single = distance(cpu.train([run])[0])
    assert single < 1e-6 + 10 * distance(reference.train([run])[0])


@pytest.mark.engines
@pytest.mark.parametrize("protocol", ["draft", "final"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("model", COMPILED)
def test_every_model_operation_and_protocol_after_1_10_and_100_steps(model, operation, protocol):
    task = StaticFunction(operation, input_size=10, extrapolation=(1, 6))
    for steps in (1, 10, 100):
        agree(Run(MODELS[model], task, protocol, steps - 1, seed=3, evaluate_every=50))


@pytest.mark.engines
@pytest.mark.parametrize("layers", [*itertools.product(KINDS, KINDS)], ids="-".join)
def test_every_pair_of_layers_and_sharp_regularisers(layers):
    for protocol in SHARP.values():
        agree(Run(layers, SMALL, protocol, 30, seed=5, evaluate_every=10))


@pytest.mark.parametrize("protocol", SHARP)
@pytest.mark.parametrize("layers", [("NAU", "NMU"), ("NMU", "NAU")], ids="-".join)
def test_parameters_at_and_beyond_their_bounds(layers, protocol):
    run = Run(layers, SMALL, SHARP[protocol], 200, seed=1, learning_rate=0.03)
    truth = reference.train([run], dtype=torch.float64)[0].parameters
    outside = (np.abs(truth) > 1).any()
    at_bound = (np.abs(truth) == 1).any()
    assert outside == (protocol == "draft")
    assert at_bound == (protocol == "final")
    agree(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": SimpleMultiplication()},
        {"task": StaticFunction("sub", input_size=101, overlap_ratio=0.0)},
        {"task": StaticFunction("mul", input_size=4)},
        {
            "task": StaticFunction(
                "mul", 10, interpolation=(-2, 2), extrapolation=((-6, -2), (2, 6))
            )
        },
        {"hidden_size": 1},
        {"hidden_size": 7},
        {"batch_size": 1},
        {"batch_size": 300},
        {"seed": 2**31 + 12345},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["NMU", "NACMul", "NALU (separate)"])
def test_every_parameter_of_a_run(model, changes):
    run = Run(MODELS[model], SMALL, "draft", 20, seed=2, evaluate_every=7)
    agree(run.but(**changes))


def test_the_final_protocol_evaluates_on_sets_that_all_runs_share():
    run = Run(("NAU", "NMU"), SMALL.__class__("mul", 4), "final", 0)
    first, second = (reference.Samples([run.but(seed=s)], "cpu", torch.float32) for s in (0, 1))
    for purpose in (reference.random.VALIDATION, reference.random.TEST):
        assert torch.equal(first.kept(purpose, 99)[0], second.kept(purpose, 99)[0])
    assert not torch.equal(first(0, 0, 99)[0], second(0, 0, 99)[0])
