"""Squared norms of per-sample gradients at every site, from one backward pass per batch.

An interpreter runs the float graph and lets gradients reach the sites only:

- activation sites: the gradient of the summed loss at the site's output holds each sample's own gradient;
- weight sites: no weight ever gets a ``.grad``. From the input a_n and the output gradient g_n of its operation the
  gradient of each sample is formed in chunks and squared at once: convolutions as one grouped convolution whose groups
  are the samples, linear layers by the Gram trick ||a_n^T g_n||^2 = sum (a a^T) * (g g^T) or directly, whichever is cheaper.

Nothing accumulates from sample to sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from bitwright.graph.graph import Graph
from bitwright.graph.operations import EMBEDDING, WEIGHTED
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.uniform import WeightQuantizer

CHUNK_BYTES = 1 << 23  # per-sample weight gradients held at once
Scores = Callable[[Tensor], Tensor]


def squared_norms(graph: Graph, inputs: tuple[Any, ...], *scores: Scores) -> list[Tensor]:
    """Squared norm of the gradient of each sample's score at each site of the float graph.

    Args:
        graph: its policy must be float.
        inputs: one batch.
        scores: functions from the outputs to one number per sample, (N,), e.g. the loss of each sample; they share
            the forward pass.

    Returns:
        For each score an (N, S) float64 tensor, columns in the order of ``graph.sites``.
    """
    names = {name: i for i, name in enumerate(graph.sites.names)}
    batch = inputs[0].shape[0]
    with torch.enable_grad():
        recorder = _Recorder(graph)
        outputs = recorder.run(*inputs)
        result = []
        for i, score in enumerate(scores):
            totals = torch.zeros(batch, len(names), dtype=torch.float64, device=inputs[0].device)
            total = score(outputs).sum()
            gradients = torch.autograd.grad(
                total, recorder.watched, retain_graph=i + 1 < len(scores), allow_unused=True
            )
            pairs = list(zip(recorder.readers, gradients, strict=True))
            del gradients
            shared: dict[str, list[Tensor | None]] = {}
            with torch.no_grad():
                while pairs:
                    reader, gradient = pairs.pop()
                    if gradient is None:
                        continue
                    if reader.site in recorder.shared:
                        shared.setdefault(reader.site, []).append(reader.materialized(gradient))
                    else:
                        totals[:, names[reader.site]] += reader.norms(gradient).double()
                for site, parts in shared.items():
                    total_gradient = sum(part for part in parts if part is not None)
                    assert isinstance(total_gradient, Tensor)
                    totals[:, names[site]] += total_gradient.square().flatten(1).sum(1, dtype=torch.float64)
            result.append(totals)
    return result


class _Reader:
    """Turns the gradient of one watched tensor into squared norms for one site."""

    site: str

    def norms(self, gradient: Tensor) -> Tensor:
        raise NotImplementedError

    def materialized(self, gradient: Tensor) -> Tensor:
        raise NotImplementedError


class _ActivationReader(_Reader):
    def __init__(self, site: str) -> None:
        self.site = site

    def norms(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).square().sum(1) if gradient.dim() > 1 else gradient.square()


class _WeightReader(_Reader):
    """Per-sample gradients of one use of a weight, from the operation's input and output gradient."""

    def __init__(self, site: str, node: Node, source: Tensor, weight: Tensor) -> None:
        self.site = site
        self.node = node
        self.source = source
        self.weight = weight

    def norms(self, gradient: Tensor) -> Tensor:
        if self.node.target == torch.ops.aten.linear.default:
            return _linear_norms(self.source, gradient)
        if self.node.target == EMBEDDING:
            return _embedding_norms(self.source, gradient)
        per_sample = self.weight.numel() * gradient.element_size()
        # Few samples at a time also keep the grouped kernels in cache.
        chunk = max(1, min(16, CHUNK_BYTES // per_sample))
        parts = [
            self._convolution(self.source[i : i + chunk], gradient[i : i + chunk]).square_().flatten(1).sum(1)
            for i in range(0, gradient.shape[0], chunk)
        ]
        return torch.cat(parts)

    def materialized(self, gradient: Tensor) -> Tensor:
        """(N, *weight.shape) gradients, for weights that are used more than once."""
        if self.node.target == torch.ops.aten.linear.default:
            a, g = _sequences(self.source), _sequences(gradient)
            return torch.bmm(g.transpose(1, 2), a)
        if self.node.target == EMBEDDING:
            result = gradient.new_zeros(gradient.shape[0], *self.weight.shape)
            index = self.source.flatten(1)
            return result.scatter_add_(
                1, index[..., None].expand(-1, -1, self.weight.shape[1]), gradient.flatten(1, -2)
            )
        return self._convolution(self.source, gradient)

    def _convolution(self, a: Tensor, g: Tensor) -> Tensor:
        """(n, *weight.shape): one grouped convolution, its groups being the samples (times the groups)."""
        kind = WEIGHTED[self.node.target].kind
        one_dimensional = kind.endswith("1d")
        dims = 1 if one_dimensional else 2
        stride, padding, output_padding, dilation, groups = _geometry(self.node, a, self.weight, dims)
        weight = self.weight
        if one_dimensional:
            a, g, weight = a.unsqueeze(2), g.unsqueeze(2), weight.unsqueeze(2)
            stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
            output_padding = [0, *output_padding]
        n = a.shape[0]
        transposed = "transpose" in kind
        stand_in = weight.new_empty(1).expand(n * weight.shape[0], *weight.shape[1:])
        _, result, _ = torch.ops.aten.convolution_backward(
            g.reshape(1, -1, *g.shape[2:]), a.reshape(1, -1, *a.shape[2:]), stand_in, None,
            stride, padding, dilation, transposed, output_padding, n * groups, (False, True, False),
        )
        return result.reshape(n, *self.weight.shape)  # type: ignore[no-any-return]


def _pair(value: Any, dims: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(v) for v in (values * dims if len(values) == 1 else values)]


def _geometry(node: Node, a: Tensor, weight: Tensor, dims: int) -> tuple[Any, Any, Any, Any, int]:
    """Stride, padding, output padding, dilation and groups of a convolution node."""
    args = list(node.args) + [None] * 8
    kwargs = node.kwargs

    def argument(position: int, name: str, default: Any) -> Any:
        value = args[position] if args[position] is not None else kwargs.get(name)
        return default if value is None else value

    stride = _pair(argument(3, "stride", 1), dims)
    if "transpose" in WEIGHTED[node.target].kind:
        padding = _pair(argument(4, "padding", 0), dims)
        output_padding = _pair(argument(5, "output_padding", 0), dims)
        return stride, padding, output_padding, _pair(argument(7, "dilation", 1), dims), int(argument(6, "groups", 1))
    dilation = _pair(argument(5, "dilation", 1), dims)
    padding = argument(4, "padding", 0)
    if isinstance(padding, str):
        kernel = weight.shape[2:]
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    return stride, _pair(padding, dims), [0] * dims, dilation, int(argument(6, "groups", 1))


def _sequences(tensor: Tensor) -> Tensor:
    """(N, L, features): everything between batch and features is the sequence."""
    return tensor.flatten(1, -2) if tensor.dim() > 2 else tensor.unsqueeze(1)


def _linear_norms(a: Tensor, g: Tensor) -> Tensor:
    """||sum_l g_l a_l^T||^2 for each sample."""
    if a.dim() == 2:
        return a.square().sum(1) * g.square().sum(1)
    a, g = _sequences(a), _sequences(g)
    length, features, outputs = a.shape[1], a.shape[2], g.shape[2]
    if length * (features + outputs) < features * outputs:
        chunk = max(1, CHUNK_BYTES // (8 * length * length))
        pieces = zip(a.split(chunk), g.split(chunk), strict=True)
        return torch.cat([
            (torch.bmm(x, x.transpose(1, 2)) * torch.bmm(y, y.transpose(1, 2))).sum((1, 2)) for x, y in pieces
        ])
    chunk = max(1, CHUNK_BYTES // (4 * features * outputs))
    pieces = zip(a.split(chunk), g.split(chunk), strict=True)
    return torch.cat([torch.bmm(y.transpose(1, 2), x).square_().sum((1, 2)) for x, y in pieces])


def _embedding_norms(index: Tensor, g: Tensor) -> Tensor:
    """Rows met by the same token add up: sum over pairs of equal tokens of g_l . g_m."""
    tokens, g = index.flatten(1), g.flatten(1, -2)
    same = tokens[:, :, None] == tokens[:, None, :]
    return (torch.bmm(g, g.transpose(1, 2)) * same).sum((1, 2))


class _Recorder(Interpreter):
    """Runs the float graph with gradients and notes which tensors' gradients tell about which site."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.module)
        self.watched: list[Tensor] = []
        self.readers: list[_Reader] = []
        self.weights: dict[Node, WeightQuantizer] = {}
        uses: dict[str, int] = {}
        for node in graph.module.graph.nodes:
            if node.op == "call_module":
                quantizer = graph.module.get_submodule(str(node.target))
                if isinstance(quantizer, WeightQuantizer):
                    self.weights[node] = quantizer
                    uses[quantizer.site.name] = uses.get(quantizer.site.name, 0) + len(node.users)
        self.shared = {site for site, count in uses.items() if count > 1}

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module":
            target = self.fetch_attr(str(n.target))
            value = self.fetch_args_kwargs_from_env(n)[0][0]
            if isinstance(target, Quantizer) and not isinstance(target, WeightQuantizer):
                value = self._watch(value, _ActivationReader(target.site.name))
                if target.recorder is not None:
                    target.recorder(value)
                return value
        result = super().run_node(n)
        operation = WEIGHTED.get(n.target)
        position = operation.weight if operation else (0 if n.target == EMBEDDING else None)
        if position is not None and n.args[position] in self.weights:
            quantizer = self.weights[n.args[position]]  # type: ignore[index]
            args, _ = self.fetch_args_kwargs_from_env(n)
            source = args[1] if n.target == EMBEDDING else args[0]
            if isinstance(source, Tensor) and isinstance(result, Tensor):
                reader = _WeightReader(quantizer.site.name, n, source.detach(), quantizer.weight)
                result = self._watch(result, reader)
        return result

    def _watch(self, value: Tensor, reader: _Reader) -> Tensor:
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        else:
            value = value.view_as(value)  # a name of its own, in case a reader before it watches the same tensor
        self.watched.append(value)
        self.readers.append(reader)
        return value
