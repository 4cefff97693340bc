"""Where the samples of a batch are in a tensor.

Mostly they are its first dimension. Attention and recurrent layers put them second, or merge them with positions or
heads into one dimension, of which the shape alone does not tell the order. Then the gradients tell it: with the score
of sample n weighted by n, the gradient of what belongs to sample n is n times the plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.symbols import batch_symbols, value_of


@dataclass(frozen=True)
class Layout:
    """Place of the samples: index ``(o * N + n) * inner + i`` along ``axis`` belongs to sample n.

    Attributes:
        axis: dimension that holds the samples; None for a value that is the same for all samples.
        outer: indices in front of the sample's.
        inner: indices behind the sample's.
    """

    axis: int | None = 0
    outer: int = 1
    inner: int = 1

    def batch_first(self, tensor: Tensor, samples: int) -> Tensor:
        """(N, ...) view or copy of a tensor, what was merged with the samples in dimensions of its own."""
        if self.axis is None:
            return tensor.unsqueeze(0).expand(samples, *tensor.shape)
        if self.outer == self.inner == 1:
            return tensor.movedim(self.axis, 0)
        before, after = tensor.shape[: self.axis], tensor.shape[self.axis + 1 :]
        return tensor.reshape(*before, self.outer, samples, self.inner, *after).movedim(self.axis + 1, 0)

    def owners(self, samples: int) -> Tensor:
        """(outer * N * inner,) sample of each index along the axis."""
        index = torch.arange(samples).repeat_interleave(self.inner)
        return index.repeat(self.outer)


PLAIN = Layout()


class Layouts:
    """Layouts of a graph's values, found once."""

    _known: WeakKeyDictionary[Graph, Layouts] = WeakKeyDictionary()

    def __init__(self, graph: Graph) -> None:
        self._symbols = batch_symbols(graph.module)
        self._axes: dict[Node, tuple[bool, tuple[int, ...]]] = {}
        self._found: dict[tuple[Node, int, int], Layout] = {}  # by the axis and by what is merged into it

    @classmethod
    def of(cls, graph: Graph) -> Layouts:
        """Those of a graph, kept as long as it lives."""
        if graph not in cls._known:
            cls._known[graph] = cls(graph)
        return cls._known[graph]

    def candidates(self, node: Node, shape: torch.Size, samples: int) -> list[Layout]:
        """What the layout of a node's value can be, the likeliest first."""
        if node not in self._axes:
            self._axes[node] = self._symbolic(node)
        alone, axes = self._axes[node]
        if not axes:
            return [Layout(None)]
        if alone:
            return [Layout(axes[0])]
        found = []
        for axis in axes:
            merged = shape[axis] // samples
            if (node, axis, merged) in self._found:
                return [self._found[node, axis, merged]]
            inners = [i for i in range(merged, 0, -1) if merged % i == 0]
            # Samples outermost, samples innermost, then in between.
            found += [Layout(axis, merged // i, i) for i in dict.fromkeys([inners[0], inners[-1], *inners])]
        return found

    def _symbolic(self, node: Node) -> tuple[bool, tuple[int, ...]]:
        """Whether one dimension is exactly the batch, and the dimensions that the batch has a part in."""
        value = value_of(node)
        if value is None or not self._symbols:
            return True, (0,)
        sizes = [size.node.expr if isinstance(size, torch.SymInt) else None for size in value.shape]
        axes = tuple(i for i, size in enumerate(sizes) if size is not None and size.free_symbols & self._symbols)
        return len(axes) == 1 and sizes[axes[0]] in self._symbols, axes

    def settle(self, node: Node, site: str, options: Sequence[Layout], plain: Tensor, weighted: Tensor) -> Layout:
        """Choose among layouts.

        Args:
            node: whose value it is.
            site: for the message.
            options: from :meth:`candidates`.
            plain: gradient of the sum of all samples' scores.
            weighted: gradient of sum_n (n + 1) score_n.

        Raises:
            InvalidInput: parts of the value depend on several samples.
        """
        for option in options:
            assert option.axis is not None
            one, other = (g.movedim(option.axis, 0).flatten(1).double() for g in (plain, weighted))
            size = one.square().sum(1)
            met = size > 1e-18 * size.max()
            samples = one.shape[0] // (option.outer * option.inner)
            expected = option.owners(samples).to(one.device) + 1.0
            ratio = (one * other).sum(1) / size.clamp_min(1e-300)
            if bool(((ratio - expected).abs() < 0.1)[met].all()):
                if samples >= 3 and int(met.sum()) >= samples:
                    self._found[node, option.axis, option.outer * option.inner] = option
                return option
        raise InvalidInput(
            f"the samples of a batch are mixed at site '{site}', so no sample has a gradient of its own there; "
            "per-sample sensitivity needs a model that treats each sample on its own"
        )
