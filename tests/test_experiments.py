"""The experiments are the paper's: models, tasks, grids, seeds, iterations."""

from collections import Counter

import pytest

from nalu import experiments
from nalu.experiments import (
    BASIC,
    EXACT,
    Named,
    boundary,
    model_named,
    sequential_mnist,
    simple_multiplication,
    static_function,
)
from nalu.training.protocol import FINAL_ADDITION, FINAL_MULTIPLICATION, Draft, Final


@pytest.mark.parametrize(("protocol", "low"), [("draft", 1), ("final", 2)])
def test_simple_multiplication_is_table_1(protocol, low):
    runs = simple_multiplication(protocol)
    assert Counter(run.model for run in runs) == {"NACMul": 100, "NALU": 100, "NMU": 100}
    assert {run.iterations for run in runs} == {200_000}
    assert {run.seed for run in runs} == set(range(100))
    assert {run.task.extrapolation for run in runs} == {((low, 6.0),)}
    assert {run.task.interpolation for run in runs} == {((1.0, 2.0),)}


@pytest.mark.parametrize(("protocol", "seeds"), [("draft", 10), ("final", 100)])
def test_static_function_is_table_2(protocol, seeds):
    runs = static_function(protocol)
    cells = Counter((run.task.operation, run.model) for run in runs)
    adding = ["NAC", "Linear", "NALU", "NAU"]
    expected = [("mul", m) for m in ("NACMul", "NALU", "NMU")]
    expected += [(operation, m) for operation in ("add", "sub") for m in adding]
    assert cells == dict.fromkeys(expected, seeds)
    assert {run.iterations for run in runs} == {5_000_000}
    assert {(run.batch_size, run.learning_rate, run.hidden_size) for run in runs} == {
        (128, 1e-3, 2)
    }


def test_protocols_have_the_constants_of_each_model():
    assert {run.protocol for run in static_function("draft")} == {Draft()}
    for run in static_function("final"):
        multiplies = run.model == "NMU"
        assert run.protocol == (FINAL_MULTIPLICATION if multiplies else FINAL_ADDITION)


def test_other_operations_have_all_basic_models():
    runs = static_function("final", operations=["div"], seeds=[0])
    assert [run.model for run in runs] == list(BASIC)


@pytest.mark.parametrize(
    ("parameter", "protocol", "values", "seeds"),
    [
        ("input_size", "draft", 10, 10),
        ("overlap_ratio", "draft", 6, 10),
        ("subset_ratio", "draft", 4, 10),
        ("input_size", "final", 14, 50),
        ("hidden_size", "final", 9, 50),
        ("ranges", "final", 7, 50),
    ],
)
def test_boundaries(parameter, protocol, values, seeds):
    runs = boundary(parameter, protocol)
    assert len(runs) == values * seeds * 3
    assert len({run.key("cpu") for run in runs}) == len(runs)


def test_the_default_task_is_the_same_run_in_every_figure():
    default = static_function(operations=["mul"], models=["NMU"], seeds=[3])[0]
    assert all(default in boundary(p) for p in ("input_size", "overlap_ratio", "subset_ratio"))


def test_larger_inputs_train_longer_in_the_final_paper():
    runs = boundary("input_size", "final", seeds=[0], models=["NMU"])
    longer = {run.task.input_size: run.iterations for run in runs}
    assert longer[100] == 5_000_000
    assert longer[125] == longer[200] == 10_000_000
    assert longer[225] == longer[300] == 15_000_000


def test_arguments_replace_the_papers():
    runs = static_function(seeds=range(2), operations=["sqrt"], models=["NAC•"], iterations=9,
                           hidden_size=5)  # fmt: skip
    assert [(r.seed, r.model, r.layers, r.iterations, r.hidden_size) for r in runs] == [
        (seed, "NACMul", ("NAC", "NACMul"), 9, 5) for seed in range(2)
    ]
    ranges = {"interpolation": (0, 1), "extrapolation": (1, 5)}
    for experiment in (simple_multiplication, static_function, boundary):
        task = experiment(seeds=[0], models=["NMU"], **ranges)[0].task
        assert (task.interpolation, task.extrapolation) == (((0, 1),), ((1, 5),))
    assert boundary(operation="add")[0].task.operation == "add"
    assert [r.task.input_size for r in boundary(values=[30], seeds=[0], models=["NMU"])] == [30]


def test_models_by_every_name():
    assert model_named("NAC₊") == model_named("NAC") == ("NAC", ("NAC", "NAC"))
    assert model_named("ReRegualizedLinearMNAC") == ("NMU", ("NAU", "NMU"))
    assert model_named(("NAC+", "NMU")) == ("NAC → NMU", ("NAC", "NMU"))
    assert model_named(("NAU", "NMU"))[0] == "NMU"
    assert model_named("NALU (separate)")[1] == ("NAC", "NALU (separate)")
    with pytest.raises(ValueError, match="no unit is named 'NAK'"):
        model_named("NAK")


def test_a_unit_that_is_no_model_is_an_error_that_says_how_to_make_one(monkeypatch):
    monkeypatch.setattr(experiments, "unit_named", lambda name: type(name, (), {}))
    with pytest.raises(ValueError, match=r"Doubled is a unit and no model.*\('NAU', 'Doubled'\)"):
        model_named("Doubled")
    assert "Doubled" not in Named(["NMU"])


def test_a_named_model_is_in_by_every_name():
    some = Named(["NACMul", "NMU"])
    assert "NAC•" in some
    assert "ReRegualizedLinearMNAC" in some
    assert "NAC₊" not in some
    assert "NAK" not in some
    assert list(some) == ["NACMul", "NMU"]
    assert "LSTM (read-out)" in Named(["LSTM (read-out)"])  # of section 3.2, and no unit


@pytest.mark.parametrize("experiment", [simple_multiplication, static_function, boundary])
def test_unknown_protocol_parameter_and_field(experiment):
    with pytest.raises(ValueError, match="no protocol is named 'neurips'"):
        experiment(protocol="neurips")
    with pytest.raises(TypeError, match="batchsize"):
        experiment(seeds=[0], batchsize=1)


def test_unknown_boundary():
    with pytest.raises(ValueError, match="parameter is 'depth': it must be one of input_size"):
        boundary("depth")
    with pytest.raises(ValueError, match="give them as values"):
        boundary("ranges", interpolation=(1, 2))


def test_sequential_mnist_is_the_papers():
    product, total = sequential_mnist("product"), sequential_mnist("sum")
    assert (len(product), len(total)) == (70, 50)
    assert {run.seed for run in product} == set(range(10))
    assert all(run.epochs == 1000 and run.protocol.name == "final" for run in product + total)
    assert {run.unit for run in product if run.z_strength} == {"NMU", "NACMulNMU"}
    assert {run.unit for run in total if run.z_strength} == {"NAC", "NAU"}
    assert {run.task.train_length for run in product} == {2}
    assert not any(run.z_strength for run in sequential_mnist("sum", z_strength=0.0))
    draft = sequential_mnist("sum", "draft")
    assert {(run.epochs, run.cnn_outputs, run.z_strength) for run in draft} == {(100_000, 10, 0.0)}
    few = sequential_mnist("product", seeds=[3], models=["NAC•", EXACT], epochs=7, batch_size=32)
    assert [(run.model, run.seed, run.epochs, run.batch_size) for run in few] == [
        ("NACMul", 3, 7, 32),
        ("exact", 3, 7, 32),
    ]
    assert {run.experiment for run in few} == {"sequential_mnist"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mul",), "operation is 'mul'"),
        (("sum", "finnal"), "no protocol is named 'finnal'"),
        (("sum", "final", [0], ["NAX"]), "no unit is named 'NAX'"),
        (("sum", "final", [-1]), "seed is -1"),
    ],
)
def test_what_sequential_mnist_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        sequential_mnist(*arguments)


def test_seeds_may_come_from_an_iterator():
    for runs in (static_function(seeds=iter([1, 2])), boundary(seeds=iter([1, 2]))):
        assert Counter(run.seed for run in runs) == {1: len(runs) // 2, 2: len(runs) // 2}


def test_a_protocol_of_ones_own_is_of_a_version_of_the_paper():
    class Mine(Draft):
        name = "mine"

    runs = simple_multiplication(Mine(), seeds=[0], models=["NMU"])
    assert runs[0].task.extrapolation == ((1, 6),)
    assert type(runs[0].but(layers=("NAU", "NAU")).protocol) is Mine


def test_what_is_varied_is_not_given_twice():
    with pytest.raises(ValueError, match="hidden_size is what is varied here: give it as values"):
        boundary("hidden_size", values=[5], hidden_size=3)


@pytest.mark.parametrize("experiment", [simple_multiplication, static_function, boundary])
def test_a_protocol_may_have_constants_of_ones_own(experiment):
    """Ranges, seeds and grids are those of the version of the paper that it is of."""
    own = Final(strength=0.5, start=0, end=100)
    runs, paper = experiment(protocol=own), experiment(protocol="final")
    assert {run.protocol for run in runs} == {own}
    assert [run.task for run in runs] == [run.task for run in paper]
    assert [run.seed for run in runs] == [run.seed for run in paper]
    assert {run.labels()["protocol_strength"] for run in runs} == {0.5}
