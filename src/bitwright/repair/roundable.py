"""Which layers a repair that chooses integers may fit, and why it leaves the others alone."""

from __future__ import annotations

from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, layers_of
from bitwright.graph.operations import entry_of
from bitwright.graph.places import site_calls

WIDEST = 8  # bits; beyond, rounding to nearest loses nothing that could be won back


def roundable(graph: Graph) -> tuple[dict[Node, Layer], list[str]]:
    """The layers whose rounding can be chosen under the current policy, and notes on those that are left alone.

    A weight that several layers share is fitted at the first of them. One that an operation reads that is no layer, as
    an embedding that is also the output layer, keeps rounding to nearest: it would be fitted to the inputs of the layer
    alone, and would change what the other has put out already.
    """
    found: dict[Node, Layer] = {}
    notes = []
    elsewhere = _read_elsewhere(graph)
    met: set[str] = set()
    for layer in layers_of(graph):
        name, bits = layer.weight.site.name, layer.weight.bits
        if bits is None:
            continue
        if name in elsewhere:
            notes.append(f"{layer.name} shares its weight with {elsewhere[name]} and keeps rounding to nearest")
        elif name in met:
            notes.append(f"{layer.name} shares its weight with a layer before it, whose inputs it was fitted to")
        elif not layer.weight.takes_grids:
            notes.append(f"{layer.name} is left to the {type(layer.weight).__name__} that stands at its weight")
        elif bits > WIDEST:
            notes.append(f"{layer.name} has {bits} bits and keeps rounding to nearest")
        else:
            found[layer.node] = layer
        met.add(name)
    return found, notes


def _read_elsewhere(graph: Graph) -> dict[str, str]:
    """Names of weights that operations read that are not layers, and one such operation for each."""
    found = {}
    for node, weight in site_calls(graph.module).items():
        if weight.site.kind != "weight":
            continue
        for user in node.users:
            role = entry_of(user).weight
            if role is None or role.lookup or user.args[role.weight] is not node:
                found[weight.site.name] = user.name
    return found
