"""Recurrent layers: a stack becomes, for each layer and direction, a linear layer and a recurrence.

The linear layer makes what the input adds to the gates, for all steps at once; the recurrence
(:mod:`bitwright.numerics.recurrence`) runs the steps. So each weight is the weight of one operation, however many steps
there are, and has one site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

from bitwright.graph.operations import OPERATIONS, aten, bitwright, entry_of, source_of
from bitwright.numerics.recurrence import STACKS

_WHOLE: dict[Any, Any] = {getattr(torch._VF, name): getattr(bitwright, f"whole_{name}").default for name in STACKS}
_ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)


class Whole(TorchFunctionMode):
    """While torch.export runs: recurrent layers are traced as one operation, and their length stays free."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call what a stack of layers is traced as, and anything else as it is."""
        whole = _WHOLE.get(func)
        packed = whole is not None and not isinstance(args[3], bool)  # their lengths are one more argument
        called = func if whole is None or packed or _has_projections(args) else whole
        return called(*args, **(kwargs or {}))


def _has_projections(args: Sequence[Any]) -> bool:
    """Whether a stack multiplies its states by a third weight (``proj_size``), which no recurrence here does."""
    _, _, parameters, biases, layers, _, _, both, _ = args
    return bool(len(parameters) != (4 if biases else 2) * layers * (2 if both else 1))


def opened_stacks(program: ExportedProgram) -> list[Any]:
    """The stacks that stay unknown and are unrolled step by step, as PyTorch decomposes them."""
    stacks = (node for node in program.graph.nodes if entry_of(node).recurrence is not None)
    return list(dict.fromkeys(node.target for node in stacks if _has_projections(node.args)))


def take_apart(module: GraphModule) -> None:
    """Rewrite the stacks of an exported graph; every node has its ``val``."""
    for node in list(module.graph.nodes):
        if entry_of(node).recurrence is not None:
            _Stack(module, node).rewrite()
    module.graph.eliminate_dead_code()
    module.recompile()


class _Stack:
    """One stack of recurrent layers."""

    def __init__(self, module: GraphModule, node: Node) -> None:
        self.graph = module.graph
        self.node = node
        self.input, states, parameters, biases, self.layers, _, _, both, self.batch_first = node.args
        self.states: list[Any] = list(states) if isinstance(states, (list, tuple)) else [states]
        self.directions = 2 if both else 1
        count = 4 if biases else 2
        self.parameters: list[Any] = [parameters[i : i + count] for i in range(0, len(parameters), count)]  # type: ignore
        self.recurrence = entry_of(node).recurrence

    def rewrite(self) -> None:
        """Put the layers in the stack's place."""
        with self.graph.inserting_before(self.node):
            value: Any = self.input if self.batch_first else self._apply(aten.transpose.int, self.input, 0, 1)
            hidden, cells = [], []
            for layer in range(self.layers):  # type: ignore[arg-type]
                outputs = []
                for direction in range(self.directions):
                    place = layer * self.directions + direction
                    output, cell = self._direction(value, place, reverse=direction == 1)
                    outputs.append(output)
                    hidden.append(self._apply(aten.select.int, output, 1, 0 if direction else -1))
                    cells.append(cell)
                # Not a ``cat``, which integer kernels compute: both directions are one operation in the runtime's eyes.
                value = outputs[0] if len(outputs) == 1 else self._apply(aten.dstack.default, outputs)
            results = [value if self.batch_first else self._apply(aten.transpose.int, value, 0, 1)]
        for user in list(self.node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(results[0])
            else:
                self._hand_out(user, hidden if user.args[1] == 1 else cells)
            self.graph.erase_node(user)
        self.graph.erase_node(self.node)

    def _direction(self, value: Node, place: int, reverse: bool) -> tuple[Node, Node | None]:
        """The states of one layer in one direction, and its last cell state where it is asked for."""
        first, second, *biases = self.parameters[place]
        gates = self._apply(aten.linear.default, value, first, *biases[:1])
        starts = [None if _zero(s) else self._apply(aten.select.int, s, 0, place) for s in self.states]
        cell = OPERATIONS[self.recurrence].cell
        arguments = (second, biases[1] if biases else None, starts[0], reverse, *starts[1:])
        output = self._apply(self.recurrence, gates, *arguments)
        wanted = cell is not None and any(user.args[1] == 2 and user.users for user in self.node.users)
        return output, self._apply(cell, gates, *arguments, output) if wanted else None

    def _hand_out(self, user: Node, finals: list[Any]) -> None:
        """Put the last states of all layers in the place of their stack, or one of them where one is picked."""
        if not user.users:
            return
        for reader in list(user.users):
            if reader.target == aten.select.int and reader.args[1] == 0:
                reader.replace_all_uses_with(finals[reader.args[2]])  # type: ignore[index]
        with self.graph.inserting_before(user):
            if len(finals) == 1:
                stacked = self._apply(aten.unsqueeze.default, finals[0], 0)
            else:
                stacked = self._apply(aten.stack.default, finals)
        user.replace_all_uses_with(stacked)

    def _apply(self, target: Any, first: Any, *rest: Any) -> Node:
        made = self.graph.call_function(target, (first, *rest))
        made.meta["nn_module_stack"] = self.node.meta.get("nn_module_stack")
        given = [_value(argument) for argument in (first, *rest)]
        role = entry_of(made).weight
        if role is not None and role.recurrent:
            batch, length, _ = given[0].shape
            size = given[1].shape[1]
            made.meta["val"] = given[0].new_empty((batch, length, size) if entry_of(made).macs else (batch, size))
        else:
            made.meta["val"] = target(*given)
        return made


def _value(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_value(item) for item in argument]
    return argument.meta["val"] if isinstance(argument, Node) else argument


def _zero(states: Node) -> bool:
    """Whether first states are zeros, as they are where the user gives none."""
    return source_of(states).target in _ZEROS
