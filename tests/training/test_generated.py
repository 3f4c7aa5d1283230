"""The generated engine: formulas, gradients and loops that are printed, against PyTorch."""

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nalu.runs import engine_for
from nalu.tasks.arithmetic import SimpleMultiplication, StaticFunction
from nalu.training import generated, reference
from nalu.training.protocol import Draft, Final
from nalu.training.run import LAYERS, Run
from nalu.units import NAU, NMU, Unit
from nalu.units.scalar import cos, exp, log, total

SHARP = {"draft": Draft(strength=1.0, rate=0.1), "final": Final(strength=1.0, start=0, end=50)}
SIGNS = StaticFunction("mul", 2, 0.5, 0.0, interpolation=(-2, 2), extrapolation=(2, 6))
SIMPLE = SimpleMultiplication()
print_model = generated.compiled_model.__wrapped__


class NPU(Unit):
    """A unit of another paper, with its parameters (in, out), a gate (in,), and no ``forward``."""

    label = "NPU"

    def __init__(self, in_features, out_features, *, device=None, dtype=None):
        super().__init__(in_features, out_features)
        shape, options = (in_features, out_features), {"device": device, "dtype": dtype}
        self.real = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape, **options)))
        self.imaginary = nn.Parameter(torch.zeros(shape, **options))
        self.gate = nn.Parameter(torch.full((in_features,), 0.5, **options))

    @property
    def weight(self):
        return self.real.T

    def scalar(self, x):
        g = self.gate.clamp(0, 1)
        r, k = log(g * (abs(x) + 2.0**-23) + 1 - g), math.pi * g * (x < 0)
        real, imaginary = self.real.T, self.imaginary.T
        return exp(total(real * r - imaginary * k)) * cos(total(real * k + imaginary * r))


@pytest.fixture(autouse=True)
def with_npu(monkeypatch):
    monkeypatch.setitem(LAYERS, "NPU", NPU)


def interpreted(names, sizes):
    """A generated module whose functions Python runs as they are printed, and its memory."""
    module, shapes = print_model(names, sizes)
    for name, value in list(vars(module).items()):
        if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__:
            setattr(module, name, value.py_func)
    for name in ("exp", "log", "tanh", "cos", "sin"):
        setattr(module, name, getattr(np, name))
    module.sigmoid = lambda x: 1 / (1 + np.exp(-x))
    return module, shapes


def kinks(unit):
    """Some parameters at the places where derivatives jump."""
    with torch.no_grad():
        for p in unit.parameters():
            flat = p.view(-1)
            for j, value in enumerate((1.0, -1.0, 0.0, 0.5, 1.5, -2.0)):
                if 2 * j < len(flat):
                    flat[2 * j] = value


@np.errstate(over="ignore")
def loss_and_gradients(model, names, sizes, x, t):
    """Of printed functions, for samples (rows, in) and targets (rows,) without the last row."""
    module, shapes = interpreted(names, sizes)
    module.BLOCK = len(x)
    module.fill = module.targets = lambda *_: None
    memory = module.Memory(**{name: np.zeros(shape) for name, shape in shapes.items()})
    p = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    g, z = np.zeros_like(p), np.zeros(len(x))
    task = SimpleNamespace(x=x.T, t=t[None], interpolation=(0, 0), seed=0)
    module.construct(p, memory.e)
    rules = SimpleNamespace(batch_size=len(x) - 1)
    loss = module.gradients(p, g, memory, task, rules, 0)
    module.pull_back(p, g, memory.de)
    module.predict(p, memory.e, x.T, z, memory.rows)
    return loss, g, z


@pytest.mark.parametrize("inputs", [3, 9, 14])
@pytest.mark.parametrize("name", [*LAYERS, "NPU"])
def test_printed_loss_and_gradients_of_every_unit_also_at_kinks(name, inputs):
    """Written out (3 inputs), in turns (9 and 14), and in a second layer."""
    torch.manual_seed(0)
    names, sizes, rows = (name, name), (inputs, 2, 1), 7
    model = nn.Sequential(LAYERS[name](inputs, 2), LAYERS[name](2, 1)).double()
    kinks(model)
    x = torch.randn(rows, inputs, dtype=torch.float64)
    x[0] = 0
    x[1, ::2] = 0
    x[2] = 1
    t = torch.randn(rows, dtype=torch.float64)
    loss, g, z = loss_and_gradients(model, names, sizes, x.numpy(), t.numpy())
    right = model(x)[:, 0]
    error = (right - t)[:-1].square().mean()
    expected = torch.autograd.grad(error, model.parameters(), materialize_grads=True)
    np.testing.assert_allclose(z, right.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(loss, error.item(), rtol=1e-12)
    flat = torch.cat([d.flatten() for d in expected])
    largest = flat.abs().max().item()  # 1 / ε where an input is 0: sums then lose some digits
    np.testing.assert_allclose(g, flat, rtol=1e-10, atol=1e-12 * max(largest, 1))


def test_the_new_unit_has_the_values_of_its_authors_code():
    """A vector of stable_nalu/layer/npu.py in bmistry4/nalm-benchmark, with dL/dx of L = Σ y."""
    unit = NPU(2, 1).double()
    for p, values in zip(unit.parameters(), ([0.8, -0.6], [0.1, -0.2], [0.7, 0.4]), strict=True):
        p.data.copy_(torch.tensor(values, dtype=torch.float64).view_as(p))
    x = torch.tensor([[1.5, -0.75], [-2.0, 3.0], [0.25, 4.0]], dtype=torch.float64)
    z = unit(x.requires_grad_())
    z.sum().backward()
    right = [[1.328555274], [-0.1066598881], [0.3342668565]]
    np.testing.assert_allclose(z.detach(), right, rtol=1e-9)
    right = [[0.6094702824, 0.4543372283], [0.07037136837, 0.0522542026]]
    np.testing.assert_allclose(x.grad[:2], right, rtol=1e-9)
    np.testing.assert_allclose(unit.gate.grad, [-2.217103806, -1.036813639], rtol=1e-9)


@pytest.mark.parametrize("name", [*LAYERS, "NPU"])
def test_a_definition_is_the_forward_pass(name):
    unit, x = LAYERS[name](5, 3).double(), torch.randn(2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(unit.scalar(x.unsqueeze(-2)), unit(x), rtol=1e-13, atol=1e-13)


def agree(run, rtol):
    """The generated loop in float64 with the reference, parameters and log."""
    (right,) = reference.train([run], dtype=torch.float64, device="cpu")
    (log,) = generated.train([run], dtype="float64")
    assert log.diverged_at == right.diverged_at
    np.testing.assert_array_equal(log["step"], right["step"])
    np.testing.assert_allclose(log.parameters, right.parameters, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(log.table(), right.table(), rtol=max(rtol, 1e-6))


@pytest.mark.parametrize("name", [*LAYERS, "NPU"])
def test_every_unit_trains_as_in_the_reference(name, monkeypatch):
    monkeypatch.setattr(generated, "compiled_model", interpreted)
    for protocol in SHARP.values():
        for steps in (1, 10):
            run = Run((name, name), SIMPLE, protocol, steps - 1, 3, learning_rate=0.03)
            agree(run, 1e-10)


@pytest.mark.parametrize("name", ["NMU", "NPU"])
def test_models_of_one_layer_train_as_in_the_reference(name, monkeypatch):
    monkeypatch.setattr(generated, "compiled_model", interpreted)
    agree(Run((name,), SIGNS, SHARP["final"], 10, 2, evaluate_every=5), 1e-10)


def test_a_compiled_loop_is_what_is_printed():
    """With turns and a rest of inputs, several blocks, both protocols, and 100 steps."""
    task = StaticFunction("mul", 13, 0.5, extrapolation=(1, 6))
    run = Run(("NALU (separate)", "NMU"), task, "draft", 0, 1, learning_rate=0.03, batch_size=200)
    for protocol in SHARP.values():
        for steps, rtol in ((1, 1e-10), (10, 1e-10), (100, 1e-6)):
            agree(run.but(protocol=protocol, iterations=steps - 1, evaluate_every=50), rtol)


def test_float32_and_what_is_kept_on_disk():
    run = Run(("NPU",), SIGNS, SHARP["draft"], 50, 2, evaluate_every=25)
    single, double = generated.train([run])[0], generated.train([run], dtype="float64")[0]
    np.testing.assert_allclose(single.parameters, double.parameters, rtol=1e-3, atol=1e-5)
    assert single.parameters.dtype == np.float32
    generated.compiled_model.cache_clear()
    again = generated.train([run])[0]
    module, _ = generated.compiled_model(run.layers, tuple(run.sizes))
    assert sum(module.advance.stats.cache_hits.values()) == 1
    assert not module.advance.stats.cache_misses
    np.testing.assert_array_equal(again.table(), single.table())


def test_where_nothing_can_be_written_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NALU_CACHE", str(tmp_path / "file"))
    module, _ = print_model(("NAU",), (2, 1))
    e = np.zeros(2)
    module.construct.py_func(np.array([1.5, -0.25]), e)
    np.testing.assert_array_equal(e, [1, -0.25])
    assert module.advance._cache.cache_path is None


class Biased(NAU):
    axes = {"w_hat": "oi", "bias": "o"}

    def reset_parameters(self):
        super().reset_parameters()
        nn.init.zeros_(self.bias)


def noisy(self, x, noise=None):
    return NMU.forward(self, x)


@pytest.mark.parametrize(
    "make",
    [
        partial(NMU, normalised=True),
        type("Moved", (NMU,), {"project_": lambda self: None}),
        type("Judged", (NMU,), {"sparsity_error": lambda self: self.weight.max()}),
        Biased,
        type("Noisy", (NMU,), {"noisy": True, "forward": noisy}),
        type("Halved", (NAU,), {"scalar": lambda s, x: total(s.weight * x) / total(abs(s.weight)),
                                "forward": Unit.forward}),
    ],
    ids=["option", "projection", "measure", "parameter", "noise", "unprintable"],
)  # fmt: skip
def test_what_a_printed_loop_would_do_otherwise_is_left_to_the_reference(make, monkeypatch):
    monkeypatch.setitem(LAYERS, "Own", make)
    assert engine_for(Run(("Own",), SIGNS)) == "reference"


def test_a_task_with_a_target_of_its_own_is_left_to_the_reference():
    class Own(SimpleMultiplication):
        def target(self, x, offset):
            return 3 * x[..., :1]

    for layers in (("NAU", "NMU"), ("NMU",)):
        assert engine_for(Run(layers, Own())) == "reference"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stream": "authors"}, "has no stream 'authors'"),
        ({"layers": ("Plain", "NMU")}, "has no layer Plain"),
        ({"layers": ("NAU", "NAU", "NMU")}, "trains models of 1 or 2 layers, not of 3"),
        ({"hidden_size": 11}, "has at most 10 hidden units for 4 inputs"),
        ({"hidden_size": 3, "task": StaticFunction()}, "has at most 2 hidden units for 100 inputs"),
    ],
)
def test_the_engine_says_which_runs_it_does_not_serve(changes, reason, monkeypatch):
    class Plain(LAYERS["Linear"]):
        def forward(self, x):
            """Another function, of which the scalar definition of a Linear knows nothing."""
            return super().forward(x) + 1

    monkeypatch.setitem(LAYERS, "Plain", Plain)
    run = Run(("NAU", "NMU"), SIMPLE, "draft", 10)
    assert generated.objection(run) == ""
    assert generated.objection(run.but(**changes)) == reason
    with pytest.raises(ValueError, match=f"engine 'generated' {reason}"):
        generated.train([run.but(**changes)])


def test_a_loss_that_is_not_finite_ends_the_run(monkeypatch):
    """The square of a product of eight inputs of 10³⁰ is more than float64 holds."""
    monkeypatch.setattr(generated, "compiled_model", interpreted)
    task = SimpleMultiplication(interpolation=(1e30, 2e30), extrapolation=(1, 2))
    ticks = []
    run = Run(("NMU", "NMU"), task, "draft", 50, evaluate_every=10)
    with np.errstate(all="ignore"):
        log = generated.train([run], ticks.append, dtype="float64")[0]
    assert log.diverged_at == 0
    assert list(log["step"]) == [0]
    assert sum(ticks) == 51
    assert np.isfinite(log.parameters).all()


def test_all_that_is_compiled_into_a_loop_is_in_the_name_of_its_file():
    """Numba looks at that file only: a source that is not in its digest would go stale."""
    module, _ = print_model(("NAU",), (2, 1))
    files = {
        Path(value.py_func.__code__.co_filename).name
        for value in vars(module).values()
        if hasattr(value, "py_func")
    }
    own = {name for name in files if name.startswith("model_")}
    assert len(own) == 1
    assert {"cpu.py", "random.py"} <= files - own <= set(generated.SOURCES)
