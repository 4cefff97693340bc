"""Layers as matrix products: which operation reads which weight, and rows of its input picked at random positions.

A convolution at one output position is a product of its weight with one row of input values. Whatever fits weights to
outputs works on such rows, picked at random from all samples and positions: far less work than whole images, and far
less alike than neighbouring positions of a few images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.geometry import geometry_of
from bitwright.graph.graph import Graph
from bitwright.graph.names import attribute_at, layer_name
from bitwright.graph.operations import WeightRole, argument, bias_of, entry_of
from bitwright.graph.places import bias_at, site_behind, weight_at
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer


@dataclass(frozen=True)
class Layer:
    """An operation with a weight that has a site.

    Attributes:
        name: for people, e.g. ``layer1.0.conv1``.
        node: the operation.
        weight: what stands at its weight's site.
        bias: follows its bias, or None: without a bias, or with one that stays in float.
        bias_node: the node that gives the bias, or None.
    """

    name: str
    node: Node
    weight: Quantizer
    bias: BiasQuantizer | None
    bias_node: Node | None

    @property
    def kind(self) -> str:
        """``conv2d``, ``linear``, ..."""
        return entry_of(self.node).kind

    @property
    def bits(self) -> int:
        """The present width of its weight, which must not be in float."""
        bits = self.weight.bits
        assert bits is not None
        return bits

    @property
    def role(self) -> WeightRole:
        """Where the operation has its operands."""
        role = entry_of(self.node).layer
        assert role is not None
        return role

    @property
    def recurrent(self) -> bool:
        """Whether the weight is multiplied by the state of the step before."""
        return self.role.recurrent

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.role.transposed

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer."""
        return self.role.dims == 0

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for a linear layer."""
        return int(argument(self.node, self.role.arguments.get("groups"), "groups", 1))

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        shape = self.weight.weight.shape
        return shape[1] * self.groups if self.transposed else shape[0]

    def geometry(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Stride, padding in front, padding behind and dilation of the convolution, one entry for each dimension.

        Transposed convolutions: of the ordinary convolution on the input with stride - 1 zeros between its values
        (stride is then the spacing of the values, not of the positions).
        """
        kernel = self.weight.weight.shape[2:]
        own = geometry_of(self.node, self.role, kernel)
        if not self.transposed:
            return own.stride, own.front, own.behind, own.dilation
        front = [d * (k - 1) - p for k, d, p in zip(kernel, own.dilation, own.front, strict=True)]
        return own.stride, front, [f + e for f, e in zip(front, own.extra, strict=True)], own.dilation

    def matrix(self, weight: Tensor) -> Tensor:
        """A tensor in the weight's shape as (groups, outputs of a group, inputs of a group x kernel)."""
        if self.transposed:
            weight = weight.flip(tuple(range(2, weight.dim())))
            weight = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
            return weight.flatten(3).flatten(2) if weight.dim() > 3 else weight
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Inverse of :meth:`matrix`."""
        shape = self.weight.weight.shape
        if self.transposed:
            inputs = shape[0] // self.groups
            weight = matrix.reshape(self.groups, matrix.shape[1], inputs, *shape[2:]).transpose(1, 2)
            return weight.reshape(shape).flip(tuple(range(2, len(shape))))
        return matrix.reshape(shape)


class Positions:
    """Random output positions of a layer in one batch, the same for inputs, outputs and an addition's other operand.

    Args:
        layer: the layer.
        output: its output on the batch.
        each: positions for each sample; all of them when there are fewer.
        generator: of the random choice.

    Raises:
        InvalidInput: an output without an axis for the samples.
    """

    def __init__(self, layer: Layer, output: Tensor, each: int, generator: torch.Generator) -> None:
        least = 2 if layer.linear else layer.weight.weight.dim()
        if output.dim() < least:
            raise InvalidInput(
                f"layer '{layer.name}' must give (batch, ...) with at least {least} axes, got shape "
                f"{tuple(output.shape)}: the model mixes the samples of a batch; keep the batch axis, or compute over "
                "the batch outside of the model"
            )
        self.layer = layer
        self.shape = output.shape
        samples = output.shape[0]
        self.spatial = output.shape[1:-1] if layer.linear else output.shape[2:]
        count = self.spatial.numel()
        chosen = min(each, count)
        if chosen == count:
            index = torch.arange(count).expand(samples, count)
        else:
            index = torch.rand(samples, count, generator=generator).topk(chosen, dim=1).indices
        self.index = index.to(output.device)
        self.sample = torch.arange(samples, device=output.device)[:, None]

    def outputs(self, value: Tensor) -> Tensor:
        """(rows, channels) of a value in the shape of the layer's output."""
        if self.layer.linear:
            return value.reshape(value.shape[0], -1, value.shape[-1])[self.sample, self.index].flatten(0, 1)
        return value.flatten(2)[self.sample, :, self.index].flatten(0, 1)

    def inputs(self, value: Tensor) -> Tensor:
        """(groups, rows, inputs of a group x kernel) of the layer's input."""
        layer = self.layer
        if layer.linear:
            return self.outputs(value).unsqueeze(0)
        stride, front, behind, dilation = layer.geometry()
        if layer.transposed:
            value, stride = _spread(value, stride), [1] * len(stride)
        value = _padded(value, front, behind)
        size = value.shape[2:]
        start = torch.zeros_like(self.index)
        rest = self.index
        for i in reversed(range(len(size))):
            step = stride[i] * size[i + 1 :].numel()
            start = start + (rest % self.spatial[i]) * step
            rest = rest // self.spatial[i]
        offset = torch.zeros(1, dtype=torch.long, device=value.device)
        for i, k in enumerate(layer.weight.weight.shape[2:]):
            step = dilation[i] * size[i + 1 :].numel()
            offset = (offset[:, None] + torch.arange(k, device=value.device) * step).flatten()
        places = start[:, :, None] + offset
        # (samples, chosen, kernel, channels) -> rows with the channel before the kernel, as weights have them.
        rows = value.flatten(2)[self.sample[:, :, None], :, places].flatten(0, 1).transpose(1, 2)
        return rows.reshape(rows.shape[0], layer.groups, -1).transpose(0, 1)


def _spread(value: Tensor, stride: list[int]) -> Tensor:
    """Put stride - 1 zeros between neighbours."""
    size = [(n - 1) * s + 1 for n, s in zip(value.shape[2:], stride, strict=True)]
    result = value.new_zeros(*value.shape[:2], *size)
    places = result
    for dim, s in enumerate(stride, start=2):
        places = places[(slice(None),) * dim + (slice(None, None, s),)]
    places.copy_(value)
    return result


def _padded(value: Tensor, front: list[int], behind: list[int]) -> Tensor:
    if not any(front) and not any(behind):
        return value
    pads = [p for f, b in zip(reversed(front), reversed(behind), strict=True) for p in (f, b)]
    return functional.pad(value, pads)


def layers_of(graph: Graph) -> list[Layer]:
    """Every operation whose weight has a site, in the order of execution; a shared weight with each of its uses."""
    found = []
    for node in graph.module.graph.nodes:
        role = entry_of(node).layer
        weight = weight_at(graph.module, node.args[role.weight]) if role is not None else None
        if weight is None:
            continue
        bias_node = bias_of(node)
        found.append(Layer(layer_name(node), node, weight, bias_at(graph.module, bias_node), bias_node))
    return found


def input_site(graph: Graph, layer: Layer) -> Quantizer | None:
    """The site that a layer's input comes from, through operations that only move values."""
    found = site_behind(graph.module, layer.node.args[0])
    return found if found is not None and found.site.kind == "activation" else None


def bias_tensor(graph: Graph, layer: Layer) -> Tensor | None:
    """The float bias itself, to be changed in place; None where there is none."""
    node = layer.bias_node
    while node is not None and node.op == "call_module":
        node = node.args[0] if isinstance(node.args[0], Node) else None
    if node is None or node.op != "get_attr":
        return None
    return attribute_at(graph.module, str(node.target))  # type: ignore[no-any-return]
