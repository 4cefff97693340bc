"""Squared norms of per-sample gradients at every site, from one backward pass per batch.

An interpreter runs the float graph and lets gradients reach the sites only:

- activation sites: the gradient of the summed loss at the site's output holds each sample's own gradient;
- weight sites: no weight ever gets a ``.grad``. From the input a_n and the output gradient g_n of its operation the
  gradient of each sample is formed in chunks and squared at once: convolutions as one grouped convolution whose
  groups are the samples, linear layers by the Gram trick ||a_n^T g_n||^2 = sum (a a^T) * (g g^T) or directly,
  whichever is cheaper.

Nothing accumulates from sample to sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from bitwright.graph.graph import Graph
from bitwright.graph.operations import EMBEDDING, WEIGHTED
from bitwright.numerics.affine import fake_quantize
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.uniform import WeightQuantizer
from bitwright.sensitivity.layout import PLAIN, Layout, Layouts
from bitwright.sensitivity.per_sample import (
    CHUNK_BYTES,
    embedding_norms,
    embedding_products,
    linear_norms,
    linear_products,
    reduced,
    sequences,
    tokens,
)

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moments:
    """What the gradients of one score say about the sites, sample by sample.

    Attributes:
        squares: (N, S) squared norm of the gradient at each site.
        products: (N, S, B) inner product of the gradient with the rounding error of each width, with its sign: the
            change of the score to first order; None when no widths were asked for.
    """

    squares: Tensor
    products: Tensor | None


def squared_norms(graph: Graph, inputs: tuple[Any, ...], *scores: Scores) -> list[Tensor]:
    """(N, S) squared norm of the gradient of each sample's score at each site, one tensor for each score."""
    return [moments.squares for moments in gradient_moments(graph, inputs, scores)]


def gradient_moments(
    graph: Graph, inputs: tuple[Any, ...], scores: Sequence[Scores], errors: RoundingErrors | None = None
) -> list[Moments]:
    """Gradients of each sample's score at each site of the float graph, reduced to what sensitivity needs.

    Args:
        graph: its policy must be float.
        inputs: one batch.
        scores: functions from the outputs to one number per sample, (N,), e.g. the loss of each sample; they share
            the forward pass.
        errors: gives the rounding errors to multiply the gradients with; None for squared norms alone.

    Returns:
        For each score its moments, float64, columns in the order of ``graph.sites``.
    """
    column = {name: i for i, name in enumerate(graph.sites.names)}
    shape = (inputs[0].shape[0], len(column))
    device = inputs[0].device
    with torch.enable_grad():
        recorder = _Recorder(graph)
        outputs = recorder.run(*inputs)
        values = [score(outputs) for score in scores]
        layouts = _layouts(graph, recorder, values[0])
        gradients = [
            _gradients(value, recorder.watched, layouts, last=i + 1 == len(values)) for i, value in enumerate(values)
        ]
    result = [
        Moments(
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.zeros(*shape, len(errors.bits), dtype=torch.float64, device=device) if errors else None,
        )
        for _ in scores
    ]
    del outputs, values
    shared: dict[str, list[tuple[_Reader, list[tuple[int, Tensor]]]]] = {}
    with torch.no_grad():
        while recorder.readers:
            reader, layout, _ = recorder.readers.pop(), layouts.pop(), recorder.watched.pop()
            pieces = [part.pop() for part in gradients]
            found = [(i, gradient) for i, gradient in enumerate(pieces) if gradient is not None]
            if not found:
                continue
            if layout != PLAIN:
                reader.arrange(layout, shape[0])
                if layout.axis is not None:
                    found = [(i, layout.batch_first(gradient, shape[0])) for i, gradient in found]
            if reader.site in recorder.shared:
                shared.setdefault(reader.site, []).append((reader, found))
                continue
            moments = reader.moments([gradient for _, gradient in found], errors)
            for (i, _), (squares, products) in zip(found, moments, strict=True):
                result[i].squares[:, column[reader.site]] += squares.double()
                if products is not None:
                    result[i].products[:, column[reader.site]] += products.double()  # type: ignore[index]
        for site, uses in shared.items():
            error = errors.of_weight(site) if errors else None
            for i in range(len(scores)):
                _add_shared(result[i], column[site], [(r, g) for r, found in uses for k, g in found if k == i], error)
    return result


def _add_shared(moments: Moments, column: int, uses: list[tuple[_Reader, Tensor]], error: Tensor | None) -> None:
    """A weight that is used several times: the gradients of its uses add up before they are squared."""
    samples = len(moments.squares)
    chunk = max(1, CHUNK_BYTES // (8 * uses[0][0].numel)) if uses else 1
    for start in range(0, samples if uses else 0, chunk):
        part = slice(start, start + chunk)
        whole = sum(reader.materialized(gradient, part) for reader, gradient in uses)
        assert isinstance(whole, Tensor)
        squares, products = reduced(whole.flatten(1), error)
        moments.squares[part, column] += squares.double()
        if products is not None and moments.products is not None:
            moments.products[part, column] += products.double()


def _layouts(graph: Graph, recorder: _Recorder, scores: Tensor) -> list[Layout]:
    """Where the samples are in each watched tensor."""
    known = Layouts.of(graph)
    count = len(scores)
    options = [
        known.candidates(reader.node, value.shape, count)
        for reader, value in zip(recorder.readers, recorder.watched, strict=True)
    ]
    open_ones = [i for i, option in enumerate(options) if len(option) > 1]
    if open_ones:
        watched = [recorder.watched[i] for i in open_ones]
        weights = torch.arange(1, count + 1, device=scores.device, dtype=scores.dtype)
        plain, weighted = (
            torch.autograd.grad(total, watched, retain_graph=True, allow_unused=True)
            for total in (scores.sum(), (scores * weights).sum())
        )
        for i, one, other in zip(open_ones, plain, weighted, strict=True):
            reader = recorder.readers[i]
            if one is not None:
                options[i] = [known.settle(reader.node, reader.site, options[i], one, other)]
    return [option[0] for option in options]


def _gradients(scores: Tensor, watched: list[Tensor], layouts: list[Layout], last: bool) -> list[Tensor | None]:
    """Gradients of the summed scores; (N, ...) with one for each sample where a value is the same for all samples."""
    same = [i for i, layout in enumerate(layouts) if layout.axis is None]
    found: list[Tensor | None] = list(
        torch.autograd.grad(scores.sum(), watched, retain_graph=bool(same) or not last, allow_unused=True)
    )
    if same:
        values = [watched[i] for i in same]
        parts = [torch.autograd.grad(s, values, retain_graph=True, allow_unused=True) for s in scores.unbind()]
        for i, pieces in zip(same, zip(*parts, strict=True), strict=True):
            found[i] = None if pieces[0] is None else torch.stack(pieces)
    return found


class RoundingErrors:
    """Rounding errors Q(t) - t of a calibrated graph at several widths; those of weights are made once."""

    def __init__(self, graph: Graph, bits: Sequence[int]) -> None:
        self.bits = tuple(bits)
        self._quantizers = graph.quantizers
        self._weights: dict[str, Tensor] = {}
        self._scratch: dict[str, Tensor] = {}

    def of_weight(self, site: str) -> Tensor:
        """(B, numel) errors of a weight."""
        if site not in self._weights:
            quantizer = self._quantizers[site]
            assert isinstance(quantizer, WeightQuantizer)
            weight = quantizer.weight.detach()
            rows = [(quantizer.rounded(b) - weight).flatten() for b in self.bits]
            self._weights[site] = torch.stack(rows)
        return self._weights[site]

    def of_activation(self, site: str, value: Tensor) -> Iterator[Tensor]:
        """Errors of an activation, in its own shape, one width after the other, all in the same memory."""
        space = self.scratch("errors", value)
        for b in self.bits:
            affine = self._quantizers[site].affine(b)
            yield fake_quantize(value, affine.to(value.device), out=space).sub_(value)

    def scratch(self, purpose: str, like: Tensor) -> Tensor:
        """Memory in the shape of a tensor that is used again: fresh memory costs more than the arithmetic."""
        kept = self._scratch.get(purpose)
        if kept is None or kept.numel() < like.numel() or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._scratch[purpose] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return kept[: like.numel()].view(like.shape)


Pair = tuple[Tensor, Tensor | None]


class _Reader:
    """Turns gradients of one watched tensor into moments for one site."""

    site: str
    node: Node

    def arrange(self, layout: Layout, samples: int) -> None:
        """Bring what was kept of the forward pass into batch-first order."""
        raise NotImplementedError

    def moments(self, gradients: list[Tensor], errors: RoundingErrors | None) -> list[Pair]:
        """Squared norms (N,) and products (N, B) of each gradient."""
        raise NotImplementedError

    @property
    def numel(self) -> int:
        """Number of elements of the weight."""
        raise NotImplementedError

    def materialized(self, gradient: Tensor, part: slice) -> Tensor:
        """(n, *weight.shape) gradients of some samples, for weights that are used more than once."""
        raise NotImplementedError


class _ActivationReader(_Reader):
    def __init__(self, site: str, node: Node, value: Tensor) -> None:
        self.site = site
        self.node = node
        self.value = value

    def arrange(self, layout: Layout, samples: int) -> None:
        self.value = layout.batch_first(self.value, samples)

    def moments(self, gradients: list[Tensor], errors: RoundingErrors | None) -> list[Pair]:
        flat = [gradient.reshape(gradient.shape[0], -1) for gradient in gradients]
        if errors is None:
            return [(torch.linalg.vecdot(g, g), None) for g in flat]
        space = errors.scratch("products", flat[0])
        squares = [torch.mul(g, g, out=space).sum(1) for g in flat]
        products: list[list[Tensor]] = [[] for _ in flat]
        for error in errors.of_activation(self.site, self.value):
            error = error.reshape(error.shape[0], -1)
            for i, g in enumerate(flat):
                products[i].append(torch.mul(g, error, out=space).sum(1))
        return [(square, torch.stack(p, 1)) for square, p in zip(squares, products, strict=True)]


class _WeightReader(_Reader):
    """Per-sample gradients of one use of a weight, from the operation's input and output gradient."""

    def __init__(self, site: str, node: Node, source: Tensor, weight: Tensor) -> None:
        self.site = site
        self.node = node
        self.source = source
        self.weight = weight

    def arrange(self, layout: Layout, samples: int) -> None:
        self.source = layout.batch_first(self.source, samples)

    def moments(self, gradients: list[Tensor], errors: RoundingErrors | None) -> list[Pair]:
        error = errors.of_weight(self.site) if errors else None
        return [self._moments(gradient, error) for gradient in gradients]

    def _moments(self, gradient: Tensor, error: Tensor | None) -> Pair:
        if self.node.target == torch.ops.aten.linear.default:
            return linear_norms(self.source, gradient), linear_products(self.source, gradient, error, self.weight)
        if self.node.target == EMBEDDING:
            return (
                embedding_norms(self.source, gradient),
                embedding_products(self.source, gradient, error, self.weight),
            )
        rows = self.source.shape[1 : 1 + self.source.dim() - self.weight.dim()].numel()
        per_sample = rows * self.weight.numel() * gradient.element_size()
        # Few samples at a time also keep the grouped kernels in cache.
        chunk = max(1, min(16, (1 << 19) // per_sample))
        squares, products = [], []
        for i in range(0, gradient.shape[0], chunk):
            part = self._convolution(self.source[i : i + chunk], gradient[i : i + chunk]).flatten(1)
            square, product = reduced(part, error)
            squares.append(square)
            products.append(product)
        return torch.cat(squares), torch.cat(products) if error is not None else None  # type: ignore[arg-type]

    @property
    def numel(self) -> int:
        return self.weight.numel()

    def materialized(self, gradient: Tensor, part: slice) -> Tensor:
        """(n, *weight.shape) gradients of some samples, for weights that are used more than once."""
        source, gradient = self.source[part], gradient[part]
        if self.node.target == torch.ops.aten.linear.default:
            return torch.bmm(sequences(gradient).transpose(1, 2), sequences(source))
        if self.node.target == EMBEDDING:
            index, values = tokens(source, gradient)
            result = gradient.new_zeros(len(index), *self.weight.shape)
            return result.scatter_add_(1, index[..., None].expand_as(values), values)
        return self._convolution(source, gradient)

    def _convolution(self, a: Tensor, g: Tensor) -> Tensor:
        """(n, *weight.shape): one grouped convolution, its groups being the samples (times the groups)."""
        if a.dim() > self.weight.dim():
            # Several images of one sample (frames, windows): their gradients add up.
            n, extra = a.shape[0], a.dim() - self.weight.dim()
            return self._convolution(a.flatten(0, extra), g.flatten(0, extra)).reshape(n, -1, *self.weight.shape).sum(1)
        kind = WEIGHTED[self.node.target].kind
        one_dimensional = kind.endswith("1d")
        dims = 1 if one_dimensional else 2
        stride, padding, output_padding, dilation, groups, uneven = _geometry(self.node, self.weight, dims)
        if any(uneven):
            a = torch.nn.functional.pad(a, [side for extra in reversed(uneven) for side in (0, extra)])
        weight = self.weight
        if one_dimensional:
            a, g, weight = a.unsqueeze(2), g.unsqueeze(2), weight.unsqueeze(2)
            stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
            output_padding = [0, *output_padding]
        n = a.shape[0]
        transposed = "transpose" in kind
        stand_in = weight.new_empty(1).expand(n * weight.shape[0], *weight.shape[1:])
        _, result, _ = torch.ops.aten.convolution_backward(
            g.reshape(1, -1, *g.shape[2:]),
            a.reshape(1, -1, *a.shape[2:]),
            stand_in,
            None,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            n * groups,
            (False, True, False),
        )
        return result.reshape(n, *self.weight.shape)  # type: ignore[no-any-return]


def _pair(value: Any, dims: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(v) for v in (values * dims if len(values) == 1 else values)]


def _geometry(node: Node, weight: Tensor, dims: int) -> tuple[Any, Any, Any, Any, int, list[int]]:
    """Stride, padding, output padding, dilation, groups; and what ``padding="same"`` adds at the far ends."""
    args = list(node.args) + [None] * 8
    kwargs = node.kwargs

    def argument(position: int, name: str, default: Any) -> Any:
        value = args[position] if args[position] is not None else kwargs.get(name)
        return default if value is None else value

    stride = _pair(argument(3, "stride", 1), dims)
    if "transpose" in WEIGHTED[node.target].kind:
        padding = _pair(argument(4, "padding", 0), dims)
        output_padding = _pair(argument(5, "output_padding", 0), dims)
        dilation, groups = _pair(argument(7, "dilation", 1), dims), int(argument(6, "groups", 1))
        return stride, padding, output_padding, dilation, groups, [0] * dims
    dilation = _pair(argument(5, "dilation", 1), dims)
    padding, uneven = argument(4, "padding", 0), [0] * dims
    if isinstance(padding, str):
        same = [d * (k - 1) if padding == "same" else 0 for k, d in zip(weight.shape[2:], dilation, strict=True)]
        padding, uneven = [total // 2 for total in same], [total % 2 for total in same]
    return stride, _pair(padding, dims), [0] * dims, dilation, int(argument(6, "groups", 1)), uneven


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
                return self._watch(value, _ActivationReader(target.site.name, n, value.detach()))
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
