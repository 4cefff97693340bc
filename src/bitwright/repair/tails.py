"""Tails: what follows a layer before its value is read again, so that it is fitted to what the network really uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer
from bitwright.graph.operations import entry_of
from bitwright.graph.places import activation_at


@dataclass(frozen=True)
class Tail:
    """The elementwise operations from a layer's output through the next addition and the next activation function.

    Attributes:
        nodes: in their order, sites included.
        operands: the other operand of each addition.
    """

    nodes: tuple[Node, ...]
    operands: tuple[Node, ...]

    @property
    def end(self) -> Node | None:
        """The last node."""
        return self.nodes[-1] if self.nodes else None

    def function(
        self, graph: Graph, layer: Layer, constant: Callable[[Node], Tensor], rounding: bool
    ) -> Callable[[Tensor, list[Tensor]], Tensor]:
        """A function of (rows, channels) outputs and the rows of each operand.

        Args:
            graph: the graph.
            layer: the layer in front.
            constant: gives the value of a constant node (PReLU's slopes).
            rounding: whether the sites on the way round, at their present widths, with straight-through gradients.
        """
        steps: list[Callable[[Tensor, list[Tensor]], Tensor]] = []
        count = 0
        for node in self.nodes:
            site = activation_at(graph.module, node)
            if site is not None:
                if rounding and site.bits is not None:
                    steps.append(lambda value, _, site=site: site(value))  # type: ignore[misc]
            elif entry_of(node).kind == "add":
                steps.append(lambda value, operands, i=count: value + operands[i])  # type: ignore[misc]
                count += 1
            else:
                steps.append(_activation(node, constant))

        def run(value: Tensor, operands: list[Tensor]) -> Tensor:
            for step in steps:
                value = step(value, operands)
            return value

        return run


def _activation(node: Node, constant: Callable[[Node], Tensor]) -> Callable[[Tensor, list[Tensor]], Tensor]:
    rest = [constant(arg) if isinstance(arg, Node) else arg for arg in node.args[1:]]
    kwargs = dict(node.kwargs)
    return lambda value, _: node.target(value, *rest, **kwargs)  # type: ignore[operator]


def tail_of(graph: Graph, layer: Layer, shape: Callable[[Node], torch.Size | None]) -> Tail:
    """The tail of a layer.

    Args:
        graph: the graph.
        layer: where it starts.
        shape: of a node's value, None when it hasn't been computed in both networks by now: an addition is part of the
            tail only if its other operand is known and as large as the layer's output.
    """
    own = shape(layer.node)
    nodes: list[Node] = []
    operands: list[Node] = []
    here = layer.node
    while len(here.users) == 1 and not layer.recurrent:  # whose output is more than its product
        user = next(iter(here.users))
        if activation_at(graph.module, user) is not None:
            nodes.append(user)
        elif entry_of(user).kind == "add" and len(user.args) == 2 and not user.kwargs:
            other = user.args[1] if user.args[0] is here else user.args[0]
            if not isinstance(other, Node) or other is here or own is None or shape(other) != own:
                break
            nodes.append(user)
            operands.append(other)
        elif entry_of(user).activation and _rowwise(user, layer, own):
            nodes.append(user)
            break
        else:
            break
        here = user
    while nodes and activation_at(graph.module, nodes[-1]) is not None:
        nodes.pop()
    return Tail(tuple(nodes), tuple(operands))


def _rowwise(node: Node, layer: Layer, shape: torch.Size | None) -> bool:
    """PReLU has its channels in dimension 1, which are a row's channels unless there is a sequence in between."""
    return entry_of(node).kind != "prelu" or not layer.linear or (shape is not None and len(shape) == 2)
