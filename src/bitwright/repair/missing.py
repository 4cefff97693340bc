"""Biases for layers that have none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, input_site
from bitwright.graph.operations import rounds_bias, siblings
from bitwright.graph.places import BIASES
from bitwright.quantizers.bias import BiasQuantizer


def ensure_biases(graph: Graph, layers: Iterable[Layer]) -> list[str]:
    """Give a bias of zeros, with its quantizer, to each layer that has none; notes on those that cannot have one.

    Outputs don't change: the bias is there for repairs to correct.
    """
    notes = []
    changed = False
    for layer in layers:
        if layer.bias is not None:
            continue
        rounds = rounds_bias(layer.node)
        inputs = input_site(graph, layer) if rounds else None
        position = layer.role.bias
        grouped = layer.transposed and layer.groups > 1
        if layer.bias_node is not None or (inputs is None and rounds) or position is None or grouped:
            notes.append(
                f"{layer.name} is left alone: its bias stays in float, or it cannot have a bias that is rounded"
            )
            continue
        source = None if inputs is None else inputs.site.name
        _insert(graph, layer, BiasQuantizer(_name(layer), graph.quantizers, source, layer.weight.site.name))
        changed = True
    if changed:
        graph.module.graph.lint()
        graph.module.recompile()
    return notes


def zeros_of(graph: Graph, label: str) -> nn.Parameter | None:
    """The zeros of a bias that was given to a layer without one; None for a bias of the model."""
    found = getattr(graph.module.get_submodule(BIASES), f"{label}_zeros", None)
    return found if isinstance(found, nn.Parameter) else None


def _name(layer: Layer) -> str:
    return f"{layer.weight.site.name.rpartition('.')[0] or layer.name}.bias"


def _insert(graph: Graph, layer: Layer, quantizer: BiasQuantizer) -> None:
    weight = layer.weight.weight
    holder = graph.module.get_submodule(BIASES)
    label = f"bias_{len(list(holder.children()))}"
    holder.add_module(label, quantizer)
    parameter = f"{label}_zeros"
    zeros = nn.Parameter(torch.zeros(layer.outputs, dtype=weight.dtype, device=weight.device), requires_grad=False)
    holder.register_parameter(parameter, zeros)
    nodes = graph.module.graph
    with nodes.inserting_before(layer.node):
        source = nodes.get_attr(f"{BIASES}.{parameter}")
        rounded = nodes.call_module(f"{BIASES}.{label}", (source,))
    position = layer.role.bias
    assert position is not None
    for node in siblings(layer.node):
        _add(node, position, rounded)


def _add(node: Node, position: int, rounded: Node) -> None:
    args = list(node.args)
    if len(args) > position:
        args[position] = rounded
    elif len(args) == position:
        args.append(rounded)
    else:
        node.kwargs = {**node.kwargs, "bias": rounded}
    node.args = tuple(args)
