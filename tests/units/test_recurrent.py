"""Recurrent use: states against an explicit loop, where they start, the LSTM, the exact one."""

import pytest
import torch
from torch import nn

from nalu.units import (
    LSTM,
    NAC,
    NALU,
    NAU,
    NMU,
    UNITS,
    Exact,
    Linear,
    NACMul,
    NACMulNMU,
    NACMulSigma,
    Recurrent,
)


def sequences(features: int = 3, time: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 5, time, features, dtype=torch.float64, generator=generator) + 0.5


@pytest.mark.parametrize("unit", UNITS.values())
def test_states_are_those_of_a_plain_loop(unit):
    recurrent = Recurrent(unit(4, 1, dtype=torch.float64))
    x = sequences()
    states = recurrent(x)
    assert states.shape == (2, 5, 4, 1)
    for i in range(2):
        for j in range(5):
            state = [unit.neutral]
            for t in range(4):
                read = torch.tensor([*x[i, j, t].tolist(), *state], dtype=torch.float64)
                assert torch.equal(recurrent.inputs(x, states)[i, j, t], read)
                state = recurrent.unit(read).tolist()
                torch.testing.assert_close(states[i, j, t].tolist(), state, rtol=1e-12, atol=1e-12)


def test_a_unit_with_logarithms_takes_them_of_inputs_and_state():
    """The authors' NAC•: exp of a NAC₊ that reads log(|·| + ε)."""
    recurrent = Recurrent(NACMul(2, 1, dtype=torch.float64))
    x = sequences(1) - 1  # also negative
    state = torch.ones(2, 5, 1, dtype=torch.float64)
    for t in range(4):
        logs = [(part.abs() + 1e-7).log() for part in (x[:, :, t], state)]
        state = (torch.cat(logs, -1) @ recurrent.unit.weight.T).exp()
        torch.testing.assert_close(recurrent(x)[:, :, t], state, rtol=1e-12, atol=0)


def test_where_states_start():
    starts = {unit: Recurrent(unit(2, 1)).initial.item() for unit in UNITS.values()}
    ones = {unit for unit, start in starts.items() if start == 1}
    assert ones == {NACMul, NACMulSigma, NACMulNMU, NMU}
    assert {starts[unit] for unit in (Linear, NAC, NALU, NAU)} == {0.0}
    constant, trained = Recurrent(NMU(2, 1)), Recurrent(NMU(2, 1), initial=0.0, trained=True)
    assert [name for name, _ in constant.named_parameters()] == ["unit.w_hat"]
    assert {name for name, _ in trained.named_parameters()} == {"initial", "unit.w_hat"}
    assert trained.initial.tolist() == [0.0]
    trained(sequences(1).float()).sum().backward()
    assert trained.initial.grad.abs() > 0
    assert Recurrent(NAU(5, 2), initial=3.0)(torch.rand(7, 3)).shape == (7, 2)


def test_gradients_are_right():
    for unit in (NMU, NAU, NACMul, NALU):
        recurrent = Recurrent(unit(2, 1, dtype=torch.float64), initial=0.7, trained=True)
        x = sequences(1)[0].requires_grad_()
        assert torch.autograd.gradcheck(recurrent, [x])


def test_what_recurrent_use_refuses():
    with pytest.raises(ValueError, match=r"NMU\(in_features=2, out_features=2.*more inputs"):
        Recurrent(NMU(2, 2))
    with pytest.raises(ValueError, match="initial is nan: it must be a finite number"):
        Recurrent(NMU(2, 1), initial=float("nan"))
    with pytest.raises(ValueError, match="in_features = 2"):
        Recurrent(NMU(2, 1))(torch.rand(3, 4, 2))


def test_the_exact_accumulator():
    x = torch.tensor([[2.0, 3.0, -4.0], [5.0, 0.0, 7.0]])[..., None]
    product, total = Recurrent(Exact("product")), Recurrent(Exact("sum"))
    assert product(x)[..., 0].tolist() == [[2.0, 6.0, -24.0], [5.0, 0.0, 0.0]]
    assert total(x)[..., 0].tolist() == [[2.0, 5.0, 1.0], [5.0, 5.0, 12.0]]
    assert product(x.double()).dtype == torch.float64
    assert not list(product.parameters())
    with pytest.raises(ValueError, match="operation is 'mul': it must be 'sum' or 'product'"):
        Exact("mul")


@pytest.mark.parametrize(("hidden_size", "read_out"), [(1, False), (7, True)])
def test_the_lstm_is_that_of_pytorch(hidden_size, read_out):
    lstm = LSTM(3, hidden_size, read_out)
    theirs = nn.LSTM(3, hidden_size, batch_first=True)
    for name, parameter in lstm.named_parameters(recurse=False):
        getattr(theirs, f"{name}_l0").data = parameter.data
    x = sequences()[0].float()
    torch.testing.assert_close(lstm(x), lstm.read_out(theirs(x)[0]))
    assert lstm(x).shape == (5, 4, 1)
    assert (lstm(100 * x).abs() < 1).all() or read_out


def test_an_lstm_without_read_out_has_one_output():
    with pytest.raises(ValueError, match="hidden_size is 2: without read_out it must be 1"):
        LSTM(1, 2)
