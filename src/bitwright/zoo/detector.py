"""A one-stage detector: each cell of a grid says whether an object has its centre there, which one, and its box.

The network returns what its last convolutions compute, as one tensor for each kind of output; `decode` makes boxes of
them outside of the graph, as runtimes of detectors do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bitwright.zoo.weights import trained

STRIDE = 8
"""Pixels along the side of a cell."""


class GridDetector(nn.Module):
    """Four stages of convolutions with batch norm and ReLU, and one convolution for each kind of output.

    Args:
        num_classes: kinds of objects.
        width: channels of the first stage; they double with each of the three halvings.
        in_channels: channels of the image.
    """

    def __init__(self, num_classes: int = 10, width: int = 16, in_channels: int = 1) -> None:
        super().__init__()
        widths = [in_channels, width, 2 * width, 4 * width, 4 * width]
        self.stages = nn.ModuleList(
            _convolution(before, after, stride=2 if stage else 1)
            for stage, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        self.neck = _convolution(widths[-1], widths[-1])
        self.objectness = nn.Conv2d(widths[-1], 1, 1)
        self.boxes = nn.Conv2d(widths[-1], 4, 1)
        self.classes = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (N, in_channels, H, W) to logits and offsets on a grid of H/8 x W/8 cells.

        ``objectness`` (N, 1, h, w) and ``classes`` (N, num_classes, h, w) are logits; ``boxes`` (N, 4, h, w) holds the
        centre's column and row as logits within the cell, and the logarithms of width and height in cells.
        """
        for stage in self.stages:
            x = stage(x)
        x = self.neck(x)
        return {"objectness": self.objectness(x), "boxes": self.boxes(x), "classes": self.classes(x)}


def decode(
    outputs: Mapping[str, Tensor], threshold: float = 0.05, overlap: float = 0.5, most: int = 20
) -> list[dict[str, Tensor]]:
    """Detections of each image: ``boxes`` (D, 4) as left, top, right, bottom in pixels, ``scores`` and ``labels`` (D,).

    Args:
        outputs: of a `GridDetector`.
        threshold: least score, the probability of an object times that of its class.
        overlap: of two boxes with a larger intersection over union only that with the higher score is kept.
        most: number of boxes kept in an image.
    """
    centre, extent = outputs["boxes"][:, :2].sigmoid(), outputs["boxes"][:, 2:].clamp(max=6.0).exp()
    height, width = centre.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = centre + torch.stack((columns, rows)).to(centre)
    corners = torch.cat((centre - extent / 2, centre + extent / 2), 1).mul(STRIDE).flatten(2).transpose(1, 2)
    probability, labels = outputs["classes"].softmax(1).flatten(2).max(1)
    scores = outputs["objectness"].sigmoid().flatten(1) * probability
    found = []
    for boxes, score, label in zip(corners, scores, labels, strict=True):
        order = score.argsort(descending=True, stable=True)
        order = order[score[order] >= threshold]
        kept: list[int] = []
        for index in order.tolist():
            if len(kept) < most and bool((_overlaps(boxes[index], boxes[kept]) <= overlap).all()):
                kept.append(index)
        found.append({"boxes": boxes[kept], "scores": score[kept], "labels": label[kept]})
    return found


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    """(D,) intersection over union of one box with ``others`` (D, 4)."""
    corner = torch.maximum(box[:2], others[:, :2])
    shared = (torch.minimum(box[2:], others[:, 2:]) - corner).clamp(min=0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return shared / (areas - shared)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def grid_detector(num_classes: int = 10, width: int = 16, weights: str | Path | None = None) -> GridDetector:
    """A one-stage detector, 0.1 M parameters by default; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(GridDetector(num_classes, width), weights)
