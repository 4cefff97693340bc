"""Memory that is used again and again, because fresh memory costs more than the arithmetic done in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bitwright.graph.graph import Graph

# The GNU C library hands freed memory back to the system above a limit that adapts to what the program frees: after
# one block of nearly 32 MiB it keeps up to 64 MiB, which the activations of a small batch then find in place.
_LIMIT_BLOCK = 31 << 20
MOST_KEPT = 64 << 20
"""A workspace with more bytes than this is given back after use."""


class Workspace:
    """Tensors by purpose, kept as long as the workspace lives; what they held before is garbage."""

    _of: WeakKeyDictionary[Graph, Workspace] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}
        torch.empty(_LIMIT_BLOCK, dtype=torch.uint8)

    @classmethod
    @contextmanager
    def of(cls, graph: Graph) -> Iterator[Workspace]:
        """A graph's workspace; unless it grew large it is still there the next time."""
        workspace = cls._of.pop(graph, None) or cls()
        yield workspace
        if workspace.size <= MOST_KEPT:
            cls._of[graph] = workspace

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def take(self, purpose: Hashable, shape: Sequence[int], like: Tensor) -> Tensor:
        """A contiguous tensor with the dtype and device of another one; the same memory at each call."""
        size = torch.Size(shape)
        kept = self._tensors.get(purpose)
        if kept is None or kept.numel() < size.numel() or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._tensors[purpose] = torch.empty(size.numel(), dtype=like.dtype, device=like.device)
        return kept[: size.numel()].view(size)
