"""Chains: pairs of layers between which each channel can be scaled, because what lies between scales along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, bias_tensor, layers_of
from bitwright.graph.names import attribute_at
from bitwright.graph.operations import cap_of, entry_of, moves_only
from bitwright.graph.places import activation_at
from bitwright.graph.symbols import value_of


@dataclass(frozen=True)
class Pair:
    """Two layers, the first of which feeds nothing but the second.

    Attributes:
        first: whose output channels are divided by the scales.
        second: whose input channels are multiplied by them.
        between: the nodes from the first to the second.
        clamps: those of them that clamp at a fixed height (ReLU6): they don't scale along.
        repeats: inputs of the second layer for each channel of the first, more than 1 behind a flattening.
    """

    first: Layer
    second: Layer
    between: tuple[Node, ...]
    clamps: tuple[Node, ...]
    repeats: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.first.name} to {self.second.name}"

    @property
    def direct(self) -> bool:
        """Whether nothing but a ReLU (and sites) lies between: what absorbing biases needs."""
        return all(node.op == "call_module" or entry_of(node).kind == "relu" for node in self.between) and any(
            node.op != "call_module" for node in self.between
        )


def pairs_of(graph: Graph) -> list[Pair]:
    """All pairs of a network, in the order of execution. Layers whose weight or bias is read elsewhere are in none."""
    layers = {layer.node: layer for layer in layers_of(graph) if not layer.recurrent}
    shared = shared_tensors(graph)
    found = []
    for layer in layers.values():
        pair = _pair(graph, layer, layers)
        if pair is not None and not any(shared(t) for each in (pair.first, pair.second) for t in _tensors(graph, each)):
            found.append(pair)
    return found


def shared_tensors(graph: Graph) -> Callable[[Tensor], bool]:
    """Whether more than one operation reads a tensor's memory, so that it cannot be rescaled for one of them alone.

    Tied weights are one parameter or several that share memory, read by layers of any kind, an embedding among them.
    """
    reads: Counter[int] = Counter()
    for node in graph.module.graph.nodes:
        if node.op == "get_attr":
            found = attribute_at(graph.module, str(node.target))
            if isinstance(found, Tensor):
                reads[found.untyped_storage().data_ptr()] += _readers(node)
    return lambda tensor: reads[tensor.untyped_storage().data_ptr()] > 1


def _readers(node: Node) -> int:
    """The number of operations that read a tensor, through the quantizers of its sites."""
    return sum(_readers(user) if user.op == "call_module" else 1 for user in node.users)


def _tensors(graph: Graph, layer: Layer) -> list[Tensor]:
    """The weight and the bias of a layer."""
    bias = bias_tensor(graph, layer)
    return [layer.weight.weight, *([] if bias is None else [bias])]


def _pair(graph: Graph, first: Layer, layers: dict[Node, Layer]) -> Pair | None:
    between: list[Node] = []
    node = first.node
    flat = first.linear
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.all_input_nodes[0] is not node:
            return None
        if user in layers:
            return _joined(first, layers[user], between, flat)
        if entry_of(user).scales == "flattening":
            if first.linear or not _flattens(user):
                return None
            flat = True
        elif not (activation_at(graph.module, user) is not None or _scales_along(user, first, flat)):
            return None
        between.append(user)
        node = user
    return None


def _joined(first: Layer, second: Layer, between: list[Node], flat: bool) -> Pair | None:
    """The pair, if the second layer reads the first one's channels as channels."""
    inputs = input_channels(second)
    if flat != second.linear or inputs % first.outputs or (inputs != first.outputs and (first.linear or not flat)):
        return None
    clamps = tuple(node for node in between if cap_of(node) is not None)
    return Pair(first, second, tuple(between), clamps, inputs // first.outputs)


def _flattens(node: Node) -> bool:
    """Whether a node makes (N, C x positions) of images, or the mean (N, C) of their positions."""
    source, value = value_of(node.all_input_nodes[0]), value_of(node)
    if source is None or value is None or source.dim() < 3 or value.dim() != 2:
        return source is not None and value is not None and source.dim() == value.dim() == 2
    if entry_of(node).kind == "mean":
        dims = node.args[1] if len(node.args) > 1 else None
        last = set(range(2, source.dim()))
        return isinstance(dims, (list, tuple)) and {int(d) % source.dim() for d in dims} == last
    return value.shape[0] == source.shape[0]


def _scales_along(node: Node, first: Layer, flat: bool) -> bool:
    entry = entry_of(node)
    if entry.kind == "prelu" and first.linear:
        value = value_of(first.node)
        return value is not None and value.dim() == 2
    if entry.scales == "elementwise" or cap_of(node) is not None:
        return True
    return not flat and (entry.scales == "spatial" or (entry.fill is not None and moves_only(node)))


def input_channels(layer: Layer) -> int:
    """Number of input channels."""
    shape = layer.weight.weight.shape
    return shape[0] if layer.transposed else shape[1] * layer.groups


def output_reach(layer: Layer) -> Tensor:
    """(outputs,) largest absolute weight of each output channel."""
    return layer.matrix(layer.weight.weight.detach()).abs().amax(2).flatten()


def input_reach(layer: Layer, repeats: int = 1) -> Tensor:
    """(inputs / repeats,) largest absolute weight that meets each input channel."""
    matrix = layer.matrix(layer.weight.weight.detach())
    return _by_input(layer, matrix).abs().amax((1, 3)).flatten().reshape(-1, repeats).amax(1)


def _by_input(layer: Layer, matrix: Tensor) -> Tensor:
    """(G, R, inputs of a group, kernel) view of a weight matrix."""
    return matrix.reshape(*matrix.shape[:2], input_channels(layer) // layer.groups, -1)


def scale_outputs(layer: Layer, factors: Tensor, bias: Tensor | None) -> None:
    """Multiply each output channel of the weight, and the bias, by a factor, in place."""
    matrix = layer.matrix(layer.weight.weight.detach())
    changed = matrix * factors.reshape(layer.groups, -1, 1).to(matrix)
    with torch.no_grad():
        layer.weight.weight.copy_(layer.from_matrix(changed))
        if bias is not None:
            bias.mul_(factors.to(bias))


def scale_inputs(layer: Layer, factors: Tensor, repeats: int = 1) -> None:
    """Multiply what meets each input channel by a factor, in place."""
    matrix = layer.matrix(layer.weight.weight.detach())
    each = factors.repeat_interleave(repeats).reshape(layer.groups, 1, -1, 1).to(matrix)
    changed = (_by_input(layer, matrix) * each).flatten(2)
    with torch.no_grad():
        layer.weight.weight.copy_(layer.from_matrix(changed))


def response_to_constant(layer: Layer, values: Tensor, repeats: int = 1) -> Tensor:
    """(outputs,) what the layer makes of an input that is constant over all positions, border effects left out."""
    matrix = _by_input(layer, layer.matrix(layer.weight.weight.detach())).sum(3)
    each = values.repeat_interleave(repeats).reshape(layer.groups, -1, 1).to(matrix)
    return torch.bmm(matrix, each).flatten()
