"""What stands where in a captured graph: at a site, behind a bias; and the site behind a value."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from bitwright.graph.operations import entry_of, moves_only, source_of
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer

SITES, BIASES, SCALES = "bitwright_sites", "bitwright_biases", "input_scales"
"""Submodules of a captured graph that hold what stands at its sites and behind its biases, by names of no network."""


def quantizer_at(module: nn.Module, node: Any) -> Quantizer | None:
    """What stands at the site that a node is; None for any other node."""
    return _called(module, node, SITES)  # type: ignore[return-value]


def activation_at(module: nn.Module, node: Any) -> Quantizer | None:
    """What stands at the activation site that a node is; None for any other node."""
    found = quantizer_at(module, node)
    return found if found is not None and found.site.kind == "activation" else None


def weight_at(module: nn.Module, node: Any) -> Quantizer | None:
    """What stands at the weight site that a node is; None for any other node."""
    found = quantizer_at(module, node)
    return found if found is not None and found.site.kind == "weight" else None


def bias_at(module: nn.Module, node: Any) -> BiasQuantizer | None:
    """What rounds a bias at a node; None for any other node."""
    return _called(module, node, BIASES)  # type: ignore[return-value]


def site_calls(module: GraphModule) -> dict[Node, Quantizer]:
    """The nodes at which a tensor passes a site, in the order of execution; a shared grid has several."""
    found = ((node, quantizer_at(module, node)) for node in module.graph.nodes)
    return {node: stands for node, stands in found if stands is not None}


def own_biases(module: GraphModule) -> dict[str, str]:
    """What rounds a bias -> that bias, both by their paths, where the bias's layer shares its weight with no other."""
    found = {
        str(node.target): (str(node.args[0].target), stands.weight_site)
        for node in module.graph.nodes
        if (stands := bias_at(module, node)) is not None
    }
    shared = Counter(weight for _, weight in found.values())
    return {label: path for label, (path, weight) in found.items() if shared[weight] == 1}


def site_behind(module: nn.Module, node: Any) -> Quantizer | None:
    """The site that a value comes from, through operations that only move values; None where there is none."""
    while isinstance(node, Node):
        stands = quantizer_at(module, node)
        source = source_of(node)
        if stands is not None or source is node:
            return stands
        node = source
    return None


def site_after(module: nn.Module, node: Node, past_scales: bool = False) -> Quantizer | None:
    """The site of what an operation makes, behind the clamps that fuse with it; None where there is none.

    Args:
        module: the graph.
        node: the operation.
        past_scales: look behind what only moves values, too, and behind a multiplication with constants for ``smooth``:
            while these are ones, files leave it out.
    """
    while len(node.users) == 1:
        node = next(iter(node.users))
        scales = any(str(value.target).startswith(f"{SCALES}.") for value in node.all_input_nodes)
        if entry_of(node).limits is None and not (past_scales and (scales or moves_only(node))):
            return quantizer_at(module, node)
    return None


def _called(module: nn.Module, node: Any, holder: str) -> nn.Module | None:
    if isinstance(node, Node) and node.op == "call_module" and str(node.target).startswith(f"{holder}."):
        return module.get_submodule(str(node.target))
    return None
