"""Run by the tests, in one process or in several: trains a small network and keeps what came out.

python several.py FILE [CHECKPOINT]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

import bitwright as bw
from bitwright.train import qat


class Net(nn.Module):
    """A convolution with a batch norm, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def main(file, checkpoint=None):
    """Train, and write outputs, epochs and integers."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(192, 1, 6, 6)
    model(x)
    model.eval()
    graph = bw.calibrate(bw.capture(model, x[:2]), [(x, None)])
    policy = bw.Policy.uniform(graph.sites, 2, 4)
    with torch.no_grad():
        batches = [(part, model(part).argmax(1)) for part in x[64:].split(16)]
    options = {
        "task": "classification",
        "learning_rate": 0.05,
        "labels": 0.2,
        "holdout": [(x[:64], model(x[:64]).argmax(1))],
    }
    course = qat(graph, batches, policy, epochs=5, strategy="mixup", checkpoint=checkpoint, **options)
    if os.environ.get("RANK", "0") == "0":
        with torch.no_grad():
            outputs = graph(x)
        integers = {s.name: graph.quantizers[s.name].integers(2) for s in graph.sites.weights}
        rows = [[e.loss, e.distance, e.primary] for e in course.epochs]
        torch.save({"outputs": outputs, "rows": rows, "integers": integers}, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
