"""The geometry of convolutions, as every reader of their arguments needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from bitwright.graph.operations import WeightRole, argument


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over its input, one entry for each spatial dimension.

    Attributes:
        stride: of the output positions; of the input positions for a transposed convolution.
        front: padding in front.
        behind: padding behind; other than in front where ``padding="same"`` is uneven.
        dilation: distance of the kernel's elements.
        extra: output padding of a transposed convolution, 0 for others.
        groups: of channels.
    """

    stride: list[int]
    front: list[int]
    behind: list[int]
    dilation: list[int]
    extra: list[int]
    groups: int


def geometry_of(node: Node, role: WeightRole, kernel: Sequence[int]) -> Geometry:
    """The geometry of a convolution with a kernel of some size; a linear layer has no dimensions and one group."""

    def given(name: str, default: Any) -> Any:
        return argument(node, role.arguments.get(name), name, default)

    def many(value: Any) -> list[int]:
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        return [int(v) for v in (values * role.dims if len(values) == 1 else values)]

    dilation, padding = many(given("dilation", 1)), given("padding", 0)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        front, behind = [t // 2 for t in total], [t - t // 2 for t in total]
    else:
        front = behind = many(0 if padding == "valid" else padding)
    stride, extra = many(given("stride", 1)), many(given("output_padding", 0))
    return Geometry(stride, front, behind, dilation, extra, int(given("groups", 1)))
