"""The float graph run with gradients that reach the sites only."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Interpreter, Node

from bitwright.graph.graph import Graph
from bitwright.graph.operations import entry_of
from bitwright.graph.places import activation_at, weight_at
from bitwright.quantizers.base import Quantizer
from bitwright.sensitivity.readers import ActivationReader, Reader, WeightReader


class Recorder(Interpreter):
    """Runs the float graph with gradients and notes which tensors' gradients tell about which site.

    Attributes:
        watched: tensors whose gradients are wanted.
        readers: what becomes of each.
        leaves: where gradients begin: all watched tensors are on the way from one of these to the outputs.
        shared: weight sites that are used more than once.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.module)
        self.watched: list[Tensor] = []
        self.readers: list[Reader] = []
        self.leaves: list[Tensor] = []
        self.weights: dict[Node, Quantizer] = {}
        uses: dict[str, int] = {}
        for node in graph.module.graph.nodes:
            quantizer = weight_at(graph.module, node)
            if quantizer is not None:
                self.weights[node] = quantizer
                uses[quantizer.site.name] = uses.get(quantizer.site.name, 0) + len(node.users)
        self.shared = {site for site, count in uses.items() if count > 1}

    def run_node(self, n: Node) -> Any:
        """Run one node, and watch its value where a site is."""
        if n.op == "call_module":
            site = activation_at(self.module, n)
            value = self.fetch_args_kwargs_from_env(n)[0][0]
            if site is not None:
                return self._watch(value, ActivationReader(site.site.name, n, value.detach()))
        result = super().run_node(n)
        role = entry_of(n).weight
        if role is not None and n.args[role.weight] in self.weights:
            quantizer = self.weights[n.args[role.weight]]  # type: ignore[index]
            source = self.fetch_args_kwargs_from_env(n)[0][role.input]
            if isinstance(source, Tensor) and isinstance(result, Tensor):
                reader = WeightReader(quantizer.site.name, n, source.detach(), quantizer.weight)
                result = self._watch(result, reader)
        return result

    def _watch(self, value: Tensor, reader: Reader) -> Tensor:
        if not value.requires_grad:
            value = value.detach().requires_grad_()
            self.leaves.append(value)
        value = value.view_as(value)  # what comes back along this way only: others may read the same tensor
        self.watched.append(value)
        self.readers.append(reader)
        return value
