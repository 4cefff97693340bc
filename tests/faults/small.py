"""A small network with data, whose weights and samples come from seeds."""

from __future__ import annotations

import torch
from torch import nn

import bitwright as bw

QUICK = {
    "calibration_samples": 16,
    "score_samples": 16,
    "holdout_samples": 16,
    "batch_size": 8,
    "points": 3,
    "rounds": 1,
    "bits": (2, 4, 8),
}


class Small(nn.Module):
    """Two convolutions, an addition and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.second(x) + x).mean((2, 3)))


def small() -> Small:
    """The network, with weights from a seed."""
    torch.manual_seed(3)
    return Small().eval()


def samples():
    """Calibration and evaluation samples from a seed."""
    generator = torch.Generator().manual_seed(4)
    parts = []
    for count in (48, 32):
        inputs = torch.randn(count, 1, 6, 6, generator=generator)
        with torch.no_grad():
            parts.append((inputs, small()(inputs).argmax(1)))
    return tuple(parts)


def captured():
    """The network as it is captured."""
    return bw.capture(small(), samples()[0][0][:2])
