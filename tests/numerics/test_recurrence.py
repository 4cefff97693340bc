"""Recurrences against PyTorch's own recurrent layers, and against differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitwright.numerics import recurrence

ops = torch.ops.bitwright
LAYERS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "rnn_tanh": (nn.RNN, {}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
}
STEPS, SIZE = 6, 4


def layer_and_call(name, reverse, dtype=torch.float64, starts=True):
    """A layer in both directions, what it gives, and the call of one direction's recurrence."""
    torch.manual_seed(0)
    kind, options = LAYERS[name]
    layer = kind(3, SIZE, batch_first=True, bidirectional=True, **options).to(dtype)
    x, hidden, cell = torch.randn(5, STEPS, 3, dtype=dtype), *torch.randn(2, 2, 5, SIZE, dtype=dtype).unbind()
    given = ((hidden, cell) if name == "lstm" else hidden,) if starts else ()
    with torch.no_grad():
        output, last = layer(x, *given)
    ih, hh, bias_ih, bias_hh = layer.all_weights[int(reverse)]
    gates = F.linear(x, ih, bias_ih)
    call = [gates, hh, bias_hh, hidden[int(reverse)] if starts else None, reverse]
    if name == "lstm":
        call.append(cell[int(reverse)] if starts else None)
    return output.chunk(2, -1)[int(reverse)], last, [v.detach() if isinstance(v, torch.Tensor) else v for v in call]


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_all_steps_are_those_of_torch(name, reverse, starts):
    for dtype, close in ((torch.float64, 1e-15), (torch.float32, 3e-7)):
        expected, last, call = layer_and_call(name, reverse, dtype, starts)
        found = getattr(ops, name)(*call)
        torch.testing.assert_close(found, expected, rtol=0, atol=close)
        if name == "lstm":
            torch.testing.assert_close(ops.lstm_cell(*call, found), last[1][int(reverse)], rtol=0, atol=close)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", [*LAYERS, "lstm_cell"])
def test_gradients_are_differences(name, reverse):
    _, _, call = layer_and_call(name.removesuffix("_cell"), reverse)
    places = [i for i, value in enumerate(call) if isinstance(value, torch.Tensor)]

    def run(*tensors):
        given = list(call)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        return ops.lstm_cell(*given, given[0]) if name == "lstm_cell" else getattr(ops, name)(*given)

    assert torch.autograd.gradcheck(run, [call[i].clone().requires_grad_() for i in places])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_for_each_step_is_added_to_the_product_of_that_step(name, reverse):
    """So its gradient is the product's: with the states it gives the gradient of the weight."""
    expected, _, call = layer_and_call(name, reverse)
    weight = call[1].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(getattr(ops, name)(call[0], weight, *call[2:]).square().sum(), weight)
    each = call[2].expand_as(call[0]).clone().requires_grad_()
    found = getattr(ops, name)(*call[:2], each, *call[3:])
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-15)
    (gradient,) = torch.autograd.grad(found.square().sum(), each)
    states = recurrence.states_before(found.detach(), call[3], reverse)
    torch.testing.assert_close(torch.einsum("ntg,nth->gh", gradient, states), wanted, rtol=1e-12, atol=1e-12)


def test_the_first_step_starts_from_the_first_state():
    states, first = torch.randn(2, 3, 4), torch.randn(2, 4)
    assert torch.equal(recurrence.states_before(states, first, False), torch.stack([first, *states.unbind(1)[:2]], 1))
    assert torch.equal(recurrence.states_before(states, first, True), torch.stack([*states.unbind(1)[1:], first], 1))
    assert torch.equal(recurrence.states_before(states, None, False)[:, 0], torch.zeros(2, 4))
