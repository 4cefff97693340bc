"""The float graph run with gradients that reach the sites only."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.operations import WeightRole, entry_of
from bitwright.graph.places import site_calls
from bitwright.graph.walk import Call, Hook, Walk
from bitwright.quantizers.base import Quantizer
from bitwright.sensitivity.readers import ActivationReader, Reader, WeightReader


class Recorder:
    """Runs the float graph with gradients and notes which tensors' gradients tell about which site.

    Attributes:
        watched: tensors whose gradients are wanted.
        readers: what becomes of each.
        leaves: where gradients begin: all watched tensors are on the way from one of these to the outputs.
        shared: weight sites that are used more than once.
    """

    def __init__(self, graph: Graph) -> None:
        self.watched: list[Tensor] = []
        self.readers: list[Reader] = []
        self.leaves: list[Tensor] = []
        self._walk = Walk(graph.module)
        self._hooks: dict[Node, Hook] = {}
        uses: dict[str, int] = {}
        for node, quantizer in site_calls(graph.module).items():
            site = quantizer.site.name
            if quantizer.site.kind == "activation":
                self._hooks[node] = partial(self._activation, site)
                continue
            uses[site] = uses.get(site, 0) + len(node.users)
            for user in node.users:
                role = entry_of(user).weight
                if role is not None and user.args[role.weight] is node:
                    self._hooks[user] = partial(self._recurrent if role.recurrent else self._weight, quantizer, role)
        self.shared = {site for site, count in uses.items() if count > 1}

    def run(self, inputs: tuple[Any, ...]) -> Any:
        """The outputs for one batch."""
        return self._walk(inputs, self._hooks)

    def _activation(self, site: str, call: Call) -> Any:
        value = call.args[0]
        return self._watch(value, ActivationReader(site, call.node, value.detach()))

    def _weight(self, quantizer: Quantizer, role: WeightRole, call: Call) -> Any:
        result, source = call(), call.args[role.input].detach()
        return self._watch(result, WeightReader(quantizer.site.name, call.node, source, quantizer.weight))

    def _recurrent(self, quantizer: Quantizer, role: WeightRole, call: Call) -> Any:
        """The gradient of a bias of each step's own is that of the product which the weight makes in that step."""
        args = list(call.args)
        gates, bias = args[role.input], args[role.bias or 0]
        reader = WeightReader(quantizer.site.name, call.node, gates, quantizer.weight)
        each = torch.zeros_like(gates) if bias is None else bias.expand_as(gates)
        args[role.bias or 0] = self._watch(each.detach(), reader)
        result = call.function(*args, **call.kwargs)
        reader.source = role.entering(args, result).detach()
        return result

    def _watch(self, value: Tensor, reader: Reader) -> Tensor:
        if not value.requires_grad:
            value = value.detach().requires_grad_()
            self.leaves.append(value)
        value = value.view_as(value)  # what comes back along this way only: others may read the same tensor
        self.watched.append(value)
        self.readers.append(reader)
        return value
