"""Float and quantized network side by side: both run node by node over all calibration batches, in step.

A repair that works layer by layer stops at each layer, sees what enters it in both networks and what the float network
puts out, changes the layer, and goes on: two passes over the data in all, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from bitwright.graph.graph import Graph
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer


class Twins:
    """The values of both networks at the nodes reached so far that are still needed.

    The quantized network runs under the graph's present policy; values are freed after their last use.

    Args:
        graph: with the policy applied.
        batches: the inputs of each batch.
        hold: nodes whose values are kept to the end.
    """

    def __init__(self, graph: Graph, batches: list[tuple[Any, ...]], hold: Container[Node] = ()) -> None:
        self.graph = graph
        self.batches = batches
        self.hold = hold
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
        for node in self.graph.module.graph.nodes:
            if node.op != "placeholder" and node.op != "output" and all(n in self._constant for n in node.all_input_nodes):
                self._constant.add(node)

    def walk(self, stops: Container[Node]) -> Iterator[Node]:
        """Run to the end, stopping at some nodes.

        At a stop the node has its float value, and not yet its quantized one: what the caller changes at its quantizers
        takes effect.
        """
        placeholders = iter(range(len(self.graph.example_inputs)))
        for node in self.graph.module.graph.nodes:
            if node in self._constant:
                continue
            if node.op == "output":
                return
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
        return self._call(node, lambda used: self.constant(used, quantized), quantized)

    def _compute(self, node: Node, batch: int, quantized: bool) -> Any:
        values = self.quantized if quantized else self.float

        def value(used: Node) -> Any:
            return self.constant(used, quantized) if used in self._constant else values[used][batch]

        return self._call(node, value, quantized)

    def _call(self, node: Node, value: Any, quantized: bool) -> Any:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return getattr(self.graph.module.get_submodule(owner), name)
        args = map_arg(node.args, value)
        kwargs = map_arg(node.kwargs, value)
        if node.op == "call_module":
            module = self.graph.module.get_submodule(str(node.target))
            if not quantized and isinstance(module, (Quantizer, BiasQuantizer)):
                return args[0]  # type: ignore[index]
            return module(*args, **kwargs)  # type: ignore[misc]
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator, misc]
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)  # type: ignore[index, misc]
