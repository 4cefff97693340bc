"""What a gradient says about its site, sample by sample: squared norms and products with rounding errors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.graph.geometry import geometry_of
from bitwright.graph.operations import entry_of
from bitwright.sensitivity.layout import Layout
from bitwright.sensitivity.per_sample import (
    Pair,
    embedding_norms,
    embedding_products,
    joined,
    linear_norms,
    linear_products,
    reduced,
    sequences,
    tokens,
)
from bitwright.sensitivity.rounding_errors import RoundingErrors
from bitwright.sensitivity.workspace import Workspace

MOST_SAMPLES, CACHE_BYTES = 32, 5 << 18
"""Samples whose weight gradients are formed at once, and the memory for them: about a processor's cache."""
ERROR_BYTES = 5 << 20
"""Memory for the rounding errors of all widths."""
DEVICE_BYTES = 1 << 28
"""Memory for either on an accelerator, where few large operations are faster than many in the cache."""
SLOW_READS = 8
"""Reading an element of a gradient that is larger than the cache takes as long as this many multiplications."""


def _bytes(cached: int, device: torch.device) -> int:
    return cached if device.type == "cpu" else DEVICE_BYTES


class Reader:
    """Turns gradients of one watched tensor into moments for one site."""

    site: str
    node: Node
    together: bool
    """Whether the gradients of several scores are best read together."""

    def arrange(self, layout: Layout, samples: int) -> None:
        """Bring what was kept of the forward pass into batch-first order."""
        raise NotImplementedError

    def moments(self, gradients: list[Tensor], errors: RoundingErrors | None, workspace: Workspace) -> list[Pair]:
        """Squared norms (N,) and products (N, B) of each gradient."""
        raise NotImplementedError

    @property
    def numel(self) -> int:
        """Number of elements of the weight."""
        raise NotImplementedError

    def materialized(self, gradient: Tensor, part: slice, workspace: Workspace | None = None) -> Tensor:
        """(n, *weight.shape) gradients of some samples; needed for weights that are used more than once."""
        raise NotImplementedError


class ActivationReader(Reader):
    """Reads the gradient at an activation site."""

    together = True  # rounding errors are made once for all scores

    def __init__(self, site: str, node: Node, value: Tensor) -> None:
        self.site = site
        self.node = node
        self.value = value

    def arrange(self, layout: Layout, samples: int) -> None:
        """Bring the value into batch-first order."""
        self.value = layout.batch_first(self.value, samples)

    def moments(self, gradients: list[Tensor], errors: RoundingErrors | None, workspace: Workspace) -> list[Pair]:
        """Squared norms and products of each gradient."""
        flat = [gradient.reshape(gradient.shape[0], -1) for gradient in gradients]
        squares = [torch.linalg.vector_norm(g, dim=1).square_() for g in flat]
        if errors is None:
            return [(square, None) for square in squares]
        samples, numel, widths = *flat[0].shape, len(errors.bits)
        room = _bytes(ERROR_BYTES, flat[0].device)
        block = min(samples, max(1, room // (widths * numel * flat[0].element_size())))
        turned = workspace.take("errors", (block, widths, numel), flat[0])
        products: list[list[Tensor]] = [[] for _ in flat]
        for start in range(0, samples, block):
            value = self.value[start : start + block]
            part = turned[: len(value)]
            for b in range(widths):
                errors.turned(self.site, b, value, part[:, b].view(value.shape))
            part = part.transpose(1, 2)
            for g, found in zip(flat, products, strict=True):
                found.append(torch.bmm(g[start : start + block].unsqueeze(1), part).squeeze(1))
        return [(square, torch.cat(found).neg_()) for square, found in zip(squares, products, strict=True)]


class WeightReader(Reader):
    """Per-sample gradients of one use of a weight, from the operation's input and output gradient."""

    together = False

    def __init__(self, site: str, node: Node, source: Tensor, weight: Tensor) -> None:
        self.site = site
        self.node = node
        self.source = source
        self.weight = weight
        role = entry_of(node).weight
        assert role is not None
        self.role = role

    def arrange(self, layout: Layout, samples: int) -> None:
        """Bring the value into batch-first order."""
        self.source = layout.batch_first(self.source, samples)

    def moments(self, gradients: list[Tensor], errors: RoundingErrors | None, workspace: Workspace) -> list[Pair]:
        """Squared norms and products of each gradient."""
        error = errors.of_weight(self.site) if errors else None
        return [self._moments(gradient, error, workspace) for gradient in gradients]

    def _moments(self, gradient: Tensor, error: Tensor | None, workspace: Workspace) -> Pair:
        if self.role.lookup:
            return (
                embedding_norms(self.source, gradient),
                embedding_products(self.source, gradient, error, self.weight),
            )
        rows = 1
        if self.role.dims == 0:
            length, widths = gradient.shape[1:-1].numel(), 0 if error is None else len(error)
            if (widths - 1) * length <= SLOW_READS * widths:
                return linear_norms(self.source, gradient), linear_products(self.source, gradient, error, self.weight)
        else:
            rows = self.source.shape[1 : 1 + self.source.dim() - self.weight.dim()].numel()
        per_sample = rows * self.weight.numel() * gradient.element_size()
        chunk = max(1, min(MOST_SAMPLES, _bytes(CACHE_BYTES, gradient.device) // per_sample))
        parts: list[Pair] = []
        for i in range(0, gradient.shape[0], chunk):
            part = self.materialized(gradient, slice(i, i + chunk), workspace)
            parts.append(reduced(part.flatten(1), error))
        return joined(parts)

    @property
    def numel(self) -> int:
        """Number of elements of the weight."""
        return self.weight.numel()

    def materialized(self, gradient: Tensor, part: slice, workspace: Workspace | None = None) -> Tensor:
        """(n, *weight.shape) gradients of some samples."""
        source, gradient = self.source[part], gradient[part]
        if self.role.lookup:
            index, values = tokens(source, gradient)
            result = gradient.new_zeros(len(index), *self.weight.shape)
            return result.scatter_add_(1, index[..., None].expand_as(values), values)
        if self.role.dims == 0:
            return torch.bmm(sequences(gradient).transpose(1, 2), sequences(source))
        return self._convolution(source, gradient, workspace)

    def _convolution(self, a: Tensor, g: Tensor, workspace: Workspace | None = None) -> Tensor:
        """(n, *weight.shape): one grouped convolution, its groups being the samples (times the groups)."""
        if a.dim() > self.weight.dim():
            # Several images of one sample (frames, windows): their gradients add up.
            n, extra = a.shape[0], a.dim() - self.weight.dim()
            whole = self._convolution(a.flatten(0, extra), g.flatten(0, extra), workspace)
            return whole.reshape(n, -1, *self.weight.shape).sum(1)
        one_dimensional = self.role.dims == 1
        geometry = geometry_of(self.node, self.role, self.weight.shape[2:])
        stride, padding, dilation, output_padding = geometry.stride, geometry.front, geometry.dilation, geometry.extra
        if padding != geometry.behind:
            uneven = [behind - front for front, behind in zip(padding, geometry.behind, strict=True)]
            a = torch.nn.functional.pad(a, [side for extra in reversed(uneven) for side in (0, extra)])
        weight = self.weight
        if one_dimensional:
            a, g, weight = a.unsqueeze(2), g.unsqueeze(2), weight.unsqueeze(2)
            stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
            output_padding = [0, *output_padding]
        n = a.shape[0]
        # Only the shape of this is used, but kernels would copy what is not contiguous.
        shape = (n * weight.shape[0], *weight.shape[1:])
        stand_in = weight.new_empty(shape) if workspace is None else workspace.take("weight", shape, weight)
        _, result, _ = torch.ops.aten.convolution_backward(
            g.reshape(1, -1, *g.shape[2:]),
            a.reshape(1, -1, *a.shape[2:]),
            stand_in,
            None,
            stride,
            padding,
            dilation,
            self.role.transposed,
            output_padding,
            n * geometry.groups,
            (False, True, False),
        )
        return result.reshape(n, *self.weight.shape)  # type: ignore[no-any-return]
