"""What stands where in a captured graph: at a site, behind a bias."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Node

from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer

SITES, BIASES = "sites", "biases"
"""Submodules of a captured graph that hold what stands at its sites and behind its biases."""


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


def _called(module: nn.Module, node: Any, holder: str) -> nn.Module | None:
    if isinstance(node, Node) and node.op == "call_module" and str(node.target).startswith(f"{holder}."):
        return module.get_submodule(str(node.target))
    return None
