"""Recurrences of LSTM, GRU and RNN layers: all steps of one layer in one direction, as one PyTorch operator each.

The part of the gates that the layer's input makes is given, for all steps: a linear layer in front makes it. Each step
adds the product of the recurrent weight and the state of the step before. They are operators so that graphs can hold
them, and differentiable, since they are made of PyTorch's own operations.

All have the arguments

- gates: (N, T, G H) what the input makes of the gates, in PyTorch's order (LSTM: i, f, g, o; GRU: r, z, n);
- weight: (G H, H) the recurrent weight;
- bias: (G H,) added to the product, or (N, T, G H) to give each step its own, or None;
- hidden: (N, H) the first state, or None for zeros;
- reverse: whether the last step comes first;
- cell: (N, H) the first cell state, or None for zeros; LSTM only;

and give (N, T, H), the state behind each step. ``lstm_cell`` gives (N, H), the cell state behind the last one. It is
given the states of ``lstm``, too, which it does not read: so a graph has both or none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

_Step = Callable[[Tensor, Tensor], Tensor]
"""The next state, from (N, G H) gates of the input and (N, G H) product with the state before."""


def lstm(
    gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool, cell: Tensor | None
) -> Tensor:
    """Long short-term memory, as ``torch.nn.LSTM`` computes it."""
    return _lstm(gates, weight, bias, hidden, reverse, cell)[0]


def lstm_cell(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    reverse: bool,
    cell: Tensor | None,
    states: Tensor,
) -> Tensor:
    """The cell state of :func:`lstm` behind its last step."""
    return _lstm(gates, weight, bias, hidden, reverse, cell)[1]


def _lstm(
    gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool, cell: Tensor | None
) -> tuple[Tensor, Tensor]:
    held = _zeros(gates, weight) if cell is None else cell

    def step(entering: Tensor, product: Tensor) -> Tensor:
        nonlocal held
        entry, forget, candidate, output = (product + entering).chunk(4, 1)
        held = torch.sigmoid(forget) * held + torch.sigmoid(entry) * torch.tanh(candidate)
        return torch.sigmoid(output) * torch.tanh(held)

    return _run(gates, weight, bias, hidden, reverse, step), held


def gru(gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool) -> Tensor:
    """Gated recurrent unit, as ``torch.nn.GRU`` computes it: the reset gate scales the product with its bias."""
    state = _zeros(gates, weight) if hidden is None else hidden

    def step(entering: Tensor, product: Tensor) -> Tensor:
        nonlocal state
        (reset, update, new), (reset_product, update_product, product) = entering.chunk(3, 1), product.chunk(3, 1)
        candidate = torch.tanh(new + torch.sigmoid(reset + reset_product) * product)
        state = candidate + torch.sigmoid(update + update_product) * (state - candidate)
        return state

    return _run(gates, weight, bias, hidden, reverse, step)


def rnn_tanh(gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool) -> Tensor:
    """Elman's recurrence with tanh, as ``torch.nn.RNN`` computes it."""
    return _run(gates, weight, bias, hidden, reverse, lambda entering, product: torch.tanh(product + entering))


def rnn_relu(gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool) -> Tensor:
    """Elman's recurrence with ReLU, as ``torch.nn.RNN`` computes it."""
    return _run(gates, weight, bias, hidden, reverse, lambda entering, product: torch.relu(product + entering))


def states_before(states: Tensor, hidden: Tensor | None, reverse: bool) -> Tensor:
    """(N, T, H) the state that each step starts from, which the recurrent weight is multiplied by."""
    first = (torch.zeros_like(states[:, 0]) if hidden is None else hidden)[:, None]
    return torch.cat([states[:, 1:], first] if reverse else [first, states[:, :-1]], 1)


def _zeros(gates: Tensor, weight: Tensor) -> Tensor:
    return gates.new_zeros(gates.shape[0], weight.shape[1])


def _run(
    gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool, step: _Step
) -> Tensor:
    state = _zeros(gates, weight) if hidden is None else hidden
    order = range(gates.shape[1])
    entering = gates.unbind(1)
    biases = bias.unbind(1) if bias is not None and bias.dim() == 3 else None
    found: list[Tensor] = []
    for t in reversed(order) if reverse else order:
        product = functional.linear(state, weight, bias if biases is None else None)
        state = step(entering[t], product if biases is None else product + biases[t])
        found.append(state)
    return torch.stack(found[::-1] if reverse else found, 1)


def _stack(name: str) -> None:
    """Define ``whole_lstm`` and the like: a whole stack, as ``torch.lstm`` is called, whose shapes can be traced.

    While torch.export traces, PyTorch's own operators run every step of every layer on tensors without data: that takes
    seconds, and fixes the length.
    """

    def run(*given: Any) -> Any:
        return getattr(torch.ops.aten, name).input(*given)

    def shapes(source: Tensor, states: Any, *given: Any) -> tuple[Tensor, ...]:
        parts = states if isinstance(states, (list, tuple)) else [states]
        both = given[5]
        output = source.new_empty((*source.shape[:2], parts[0].shape[2] * (2 if both else 1)))
        return (output, *(torch.empty_like(part) for part in parts))

    schema = str(getattr(torch.ops.aten, name).input._schema).partition("(")[2]
    _LIBRARY.define(f"whole_{name}({schema}")  # type: ignore[no-untyped-call]
    _LIBRARY.impl(f"whole_{name}", run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"bitwright::whole_{name}", shapes, lib=_LIBRARY)


STACKS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""What PyTorch calls its stacks of recurrent layers."""
_ARGUMENTS = "Tensor gates, Tensor weight, Tensor? bias, Tensor? hidden, bool reverse"
_LIBRARY = torch.library.Library("bitwright", "DEF")  # type: ignore[no-untyped-call]
for _function, _more in (
    (lstm, ", Tensor? cell"),
    (lstm_cell, ", Tensor? cell, Tensor states"),
    (gru, ""),
    (rnn_tanh, ""),
    (rnn_relu, ""),
):
    _name = _function.__name__
    _LIBRARY.define(f"{_name}({_ARGUMENTS}{_more}) -> Tensor")  # type: ignore[no-untyped-call]
    _LIBRARY.impl(_name, _function, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
for _name in STACKS:
    _stack(_name)
