"""Memory that is used again and again, because fresh memory costs more than the arithmetic done in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

# The GNU C library hands freed memory back to the system above a limit that adapts to what the program frees: after
# one block of nearly 32 MiB it keeps up to 64 MiB, which the activations of a small batch then find in place.
_KEPT = 31 << 20


class Workspace:
    """Tensors by purpose, kept as long as the workspace lives; what they held before is garbage."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}
        torch.empty(_KEPT, dtype=torch.uint8)

    def take(self, purpose: Hashable, shape: Sequence[int], like: Tensor) -> Tensor:
        """A contiguous tensor with the dtype and device of another one; the same memory at each call."""
        size = torch.Size(shape)
        kept = self._kept.get(purpose)
        if kept is None or kept.numel() < size.numel() or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._kept[purpose] = torch.empty(size.numel(), dtype=like.dtype, device=like.device)
        return kept[: size.numel()].view(size)
