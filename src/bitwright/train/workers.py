"""Where training runs: alone in this process, or through Accelerate on a device, in less precision, or in several
processes that share each batch.

Every process reads the same batches and makes the same changes to them; each computes the losses of its own samples.
Gradients, and whatever else is a sum over the batch, are added up over the processes. So the figures are those of one
process, but for the order of the sums.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bitwright.errors import InvalidInput, MissingExtra

Precision = Literal["no", "bf16"]


class Workers:
    """One process, on the device where the network is.

    Attributes:
        count: of the processes that share a batch.
        rank: which of them this one is, from 0.
        device: where the network goes; None: it stays where it is.
    """

    count: int = 1
    rank: int = 0
    device: torch.device | None = None

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The block in which losses are computed."""
        return contextlib.nullcontext()

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, with gradients."""
        return value

    def own(self, count: int) -> Tensor:
        """The positions of this process's samples among those of a batch."""
        return torch.arange(self.rank, count, self.count)

    def share_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give each parameter the sum of its gradients over the processes."""


class Accelerated(Workers):
    """Through Accelerate, as ``accelerate launch`` or ``torchrun`` set it up.

    Args:
        precision: ``"bf16"`` computes the network's operations in bfloat16 where torch thinks it safe.

    Raises:
        MissingExtra: Accelerate is not installed.
    """

    def __init__(self, precision: Precision) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise MissingExtra("accelerate", "train", "to train in several processes or in bf16") from None
        self._accelerator = Accelerator(mixed_precision=precision)
        self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
        self.device = self._accelerator.device

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Accelerate's autocast."""
        return self._accelerator.autocast()  # type: ignore[no-any-return]

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes; its gradient is that of the sum."""
        if self.count == 1:
            return value
        return _Total.apply(value, self._accelerator)  # type: ignore[no-any-return, no-untyped-call]

    def share_gradients(self, parameters: Iterable[Tensor]) -> None:
        """All gradients in one message."""
        if self.count == 1:
            return
        parameters = [each for each in parameters if each.requires_grad]
        found = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        whole = self._accelerator.reduce(torch.cat([each.reshape(-1) for each in found]), "sum")
        parts = whole.split([each.numel() for each in found])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)


class _Total(torch.autograd.Function):
    """A sum over processes: each of them depends on it, so its gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, accelerator: Any) -> Tensor:
        ctx.accelerator = accelerator
        found: Tensor = accelerator.reduce(value.detach().clone(), "sum")
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.accelerator.reduce(gradients[0].contiguous().clone(), "sum"), None


def workers(precision: Precision = "no") -> Workers:
    """Accelerate where several processes were started or another precision is wanted, else this process alone.

    Raises:
        InvalidInput: an unknown precision.
        MissingExtra: Accelerate is needed, and not installed.
    """
    if precision not in get_args(Precision):
        raise InvalidInput(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerated(precision) if several or precision != "no" else Workers()
