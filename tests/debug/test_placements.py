"""The debugging flow measures other placements where a network is made for them."""

from __future__ import annotations

import torch
from torch import nn

import bitwright as bw
from bitwright.tasks import Embedding


class Outliers(nn.Module):
    """Sentences to vectors, with a stream in which one channel is two hundred times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(20, 16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(16, 8)
        self.register_buffer("offset", 200.0 * nn.functional.one_hot(torch.tensor(3), 16).float())
        with torch.no_grad():
            self.head.weight[:, 3] /= 200.0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        x = x + self.down(nn.functional.gelu(self.up(x))) + self.offset
        return nn.functional.normalize(self.head(x).mean(1), dim=-1)


def found(model: bool):
    torch.manual_seed(0)
    network = Outliers().eval()
    ids = torch.randint(20, (48, 6), generator=torch.Generator().manual_seed(0))
    parts = [(ids[:24], None)], [(ids[24:], None)]
    graph = bw.capture(network, ids[:2])
    return bw.debug(
        graph, Embedding(*parts), 0.001, weights=8, activations=8, model=network if model else None, repairs=()
    )


def test_it_leads_to_the_better_placement() -> None:
    findings = found(True)
    rows = {row.label: row.distance for row in findings.step(2).measured}
    whole = rows["W8A8, everything"]
    others = {label: distance for label, distance in rows.items() if label.startswith("placed as ")}
    assert [label.split()[2] for label in others] == ["linear", "dynamic", "weight-only"]
    assert all(distance < 0.5 * whole for distance in others.values())
    assert "take --quantizer" in findings.step(2).advice
    assert "--quantizer weight-only has" in findings.step(2).advice
    if findings.outcome != "holds":
        assert findings.step(2).advice in findings.recommendation


def test_without_the_model_there_is_nothing_to_place() -> None:
    assert not any("placed" in row.label for row in found(False).step(2).measured)
