"""Float and quantized network side by side: both run node by node over all calibration batches, in step.

A repair that works layer by layer stops at each layer, sees what enters it in both networks and what the float network
puts out, changes the layer, and goes on: two passes over the data in all, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as NodeGraph
from torch.fx import Node
from torch.fx.node import map_arg

from bitwright.graph.graph import Graph
from bitwright.graph.names import attribute_at
from bitwright.graph.places import bias_at, quantizer_at


class Twins:
    """The values of both networks at the nodes reached so far that are still needed.

    The quantized network runs under the graph's present policy; values are freed after their last use.

    Args:
        graph: with the policy applied.
        batches: the inputs of each batch.
        hold: nodes whose values are kept until they are let go.
    """

    def __init__(self, graph: Graph, batches: list[tuple[Any, ...]], hold: Iterable[Node] = ()) -> None:
        self.graph = graph
        self.batches = batches
        self.hold = set(hold)
        self.float: dict[Node, list[Any]] = {}
        self.quantized: dict[Node, list[Any]] = {}
        self._constant: set[Node] = set()
        self._last: dict[Node, list[Node]] = {}
        self._plan()

    def _plan(self) -> None:
        seen: set[Node] = set()
        for node in reversed(self.graph.module.graph.nodes):
            for used in node.all_input_nodes:
                if used not in seen:
                    seen.add(used)
                    self._last.setdefault(node, []).append(used)
        dependent = set(inputs_dependent(self.graph.module.graph))
        self._constant = {node for node in self.graph.module.graph.nodes if node not in dependent}

    def walk(self, stops: Container[Node]) -> Iterator[Node]:
        """Run to the end, stopping at some nodes.

        At a stop the node has its float value, and not yet its quantized one: what the caller changes at its quantizers
        takes effect.
        """
        placeholders = iter(range(len(self.graph.example_inputs)))
        for node in self.graph.module.graph.nodes:
            if node.op == "output":
                return
            if node in self._constant:
                continue
            if node.op == "placeholder":
                position = next(placeholders)
                self.float[node] = [inputs[position] for inputs in self.batches]
                if node in stops:
                    yield node
                self.quantized[node] = list(self.float[node])
            else:
                with torch.no_grad():
                    self.float[node] = [self._compute(node, i, False) for i in range(len(self.batches))]
                if node in stops:
                    yield node
                with torch.no_grad():
                    self.quantized[node] = [self._compute(node, i, True) for i in range(len(self.batches))]
            for used in self._last.get(node, ()):
                if used not in self.hold:
                    self.float.pop(used, None)
                    self.quantized.pop(used, None)

    def shape(self, node: Node) -> torch.Size | None:
        """Shape of a node's value in the first batch, None before it is known or after it was freed."""
        values = self.float.get(node)
        return values[0].shape if values and isinstance(values[0], Tensor) else None

    def constant(self, node: Node, quantized: bool) -> Any:
        """Value of a node that doesn't depend on the inputs: a weight or a bias, rounded or not."""
        return self.call(node, lambda used: self.constant(used, quantized), quantized)

    def _compute(self, node: Node, batch: int, quantized: bool) -> Any:
        values = self.quantized if quantized else self.float

        def value(used: Node) -> Any:
            return self.constant(used, quantized) if used in self._constant else values[used][batch]

        return self.call(node, value, quantized)

    def redo(self, nodes: Iterable[Node]) -> None:
        """Compute the quantized values of some nodes again, after quantizers inside have changed."""
        with torch.no_grad():
            for node in nodes:
                self.quantized[node] = [self._compute(node, i, True) for i in range(len(self.batches))]

    def release(self, nodes: Iterable[Node]) -> None:
        """Forget the values of some nodes."""
        for node in nodes:
            self.float.pop(node, None)
            self.quantized.pop(node, None)

    def let_go(self, node: Node, reader: Node) -> None:
        """No longer hold a node's values; ``reader``, the node that comes next, may still read them."""
        self.hold.discard(node)
        if node not in self._last.get(reader, ()):
            self.release([node])

    def call(self, node: Node, value: Callable[[Node], Any], quantized: bool) -> Any:
        """What a node computes from the values of its inputs."""
        if node.op == "get_attr":
            return attribute_at(self.graph.module, str(node.target))
        args = map_arg(node.args, value)
        kwargs = map_arg(node.kwargs, value)
        if node.op == "call_module":
            stands = quantizer_at(self.graph.module, node) or bias_at(self.graph.module, node)
            if stands is not None and not quantized:
                return args[0]
            return self.graph.module.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)


def inputs_dependent(graph: NodeGraph) -> list[Node]:
    """The nodes whose value depends on the network's inputs, in the order of execution, the output node left out."""
    found: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or (node.op != "output" and any(n in found for n in node.all_input_nodes)):
            found[node] = None
    return list(found)
