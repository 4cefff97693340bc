"""Networks that run over many batches in step: one on its own, or float and quantized side by side.

A repair that works layer by layer stops at each layer, sees what enters it in both networks and what the float network
puts out, changes the layer, and goes on: two passes over the data in all, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer
from bitwright.graph.walk import Call, Hooks, Values, Walk, free, unrounded


class Lane:
    """One network on several batches, all of which stand at the same place.

    Args:
        walk: through the graph.
        batches: the inputs of each batch.
        hooks: node -> hook.
        held: nodes whose values are kept beyond their last use; a set may change while the lane runs.

    Attributes:
        values: of each batch.
        here: the step that comes next.
    """

    def __init__(
        self, walk: Walk, batches: Iterable[Sequence[Any]], hooks: Hooks | None = None, held: Iterable[Node] = ()
    ) -> None:
        self._walk = walk
        self.hooks = hooks or {}
        self.values: list[Values] = [walk.begin(inputs, hooks, held) for inputs in batches]
        self.here = 0

    def __contains__(self, node: Node) -> bool:
        return all(node in values for values in self.values)

    def __getitem__(self, node: Node) -> list[Any]:
        """A node's value in each batch."""
        return [values[node] for values in self.values]

    def to(self, stop: int) -> None:
        """Run up to a step, if it is not reached yet."""
        for values in self.values:
            self._walk.run(values, self.here, max(stop, self.here))
        self.here = max(stop, self.here)

    def outputs(self, hooks: Hooks | None = None) -> Iterator[Any]:
        """What the rest of the graph makes of each batch, with other hooks if given; the lane stays where it is."""
        for values in self.values:
            yield self._walk.run(values.fork(hooks), self.here)

    def redo(self, nodes: Iterable[Node]) -> None:
        """Compute the values of some nodes anew, after quantizers inside have changed."""
        for node in nodes:
            constants = self._walk.sources(node)
            for values in self.values:
                for constant in constants:
                    values.pop(constant, None)
                values[node] = self._walk.compute(node, values)

    def release(self, nodes: Iterable[Node]) -> None:
        """Forget the values of some nodes."""
        for node in nodes:
            for values in self.values:
                values.pop(node, None)

    def constant(self, node: Node) -> Any:
        """The present value of a node that depends on no input: a weight or a bias."""
        return self._walk.alone(node, hooks=self.hooks)


class Twins:
    """The values of both networks at the nodes reached so far that are still needed.

    The quantized network runs under the graph's present policy.

    Args:
        graph: with the policy applied.
        batches: the inputs of each batch.
        hold: nodes whose values are kept until they are let go.

    Attributes:
        walk: through the graph.
        float: the float network.
        quantized: the quantized one.
    """

    def __init__(self, graph: Graph, batches: Sequence[Sequence[Any]], hold: Iterable[Node] = ()) -> None:
        self.graph = graph
        self.walk = Walk(graph.module)
        self._held = set(hold)
        self.float = Lane(self.walk, batches, unrounded(graph.module), self._held)
        self.quantized = Lane(self.walk, batches, None, self._held)

    def stops(self, nodes: Container[Node]) -> Iterator[Node]:
        """Run to the end, stopping at some nodes.

        At a stop the node has its float value, and not yet its quantized one: what the caller changes at its quantizers
        takes effect.
        """
        for step in self.walk.steps[:-1]:
            self._advance(self.float, step.node)
            if step.node in nodes:
                yield step.node
            self._advance(self.quantized, step.node)
            for lane in (self.float, self.quantized):
                for values in lane.values:
                    free(values, step)

    def _advance(self, lane: Lane, node: Node) -> None:
        if node.op != "placeholder":
            with torch.no_grad():
                for values in lane.values:
                    values[node] = self.walk.compute(node, values)

    def shape(self, node: Node) -> torch.Size | None:
        """Shape of a node's value in the first batch, None before it is known or after it was freed."""
        value = self.float.values[0].get(node)
        return value.shape if isinstance(value, Tensor) else None

    def entering(self, layer: Layer) -> list[Tensor]:
        """What the layer's weight is multiplied by in the quantized network, as it is at the present stop."""
        if not layer.recurrent:
            return self.quantized[layer.node.args[layer.role.input]]  # type: ignore[index]
        return [layer.role.entering(call.args, result) for call, result in self._calls(self.quantized, layer)]

    def products(self, lane: Lane, layer: Layer) -> list[Tensor]:
        """(N, ..., channels) what the layer makes of its weight and bias: its output, unless it is a recurrence."""
        if not layer.recurrent:
            return lane[layer.node]
        role, found = layer.role, []
        for call, result in self._calls(lane, layer):
            bias = None if role.bias is None else call.args[role.bias]
            found.append(functional.linear(role.entering(call.args, result), call.args[role.weight], bias))
        return found

    def _calls(self, lane: Lane, layer: Layer) -> list[tuple[Call, Tensor]]:
        """The layer's calls and results, made anew: weight and bias as they are now."""

        def keep(call: Call) -> Any:
            return call, call()

        node = layer.node
        with torch.no_grad():
            return [self.walk.compute(node, values.fork({**values.hooks, node: keep})) for values in lane.values]

    def bias(self, layer: Layer) -> Tensor | None:
        """(outputs,) a layer's current bias, a repair's correction included, before it is rounded; None without."""
        if layer.bias_node is None:
            return None
        found: Tensor = self.float.constant(layer.bias_node).detach()
        return found if layer.bias is None else layer.bias.effective(found)

    def redo(self, nodes: Iterable[Node]) -> None:
        """Compute the quantized values of some nodes again, after quantizers inside have changed."""
        with torch.no_grad():
            self.quantized.redo(nodes)

    def release(self, nodes: Sequence[Node]) -> None:
        """Forget the values of some nodes."""
        self.float.release(nodes)
        self.quantized.release(nodes)

    def let_go(self, node: Node, reader: Node) -> None:
        """No longer hold a node's values; ``reader``, the node of the present stop, may still read them."""
        self._held.discard(node)
        if node not in self.walk.step(reader).done_with:
            self.release([node])
