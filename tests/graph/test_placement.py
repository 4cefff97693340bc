"""Where the default placement puts sites, and where not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.values import Policy


class Masked(nn.Module):
    """Attention with a mask that is made of an input: -inf, or the lowest float."""

    def __init__(self, low):
        super().__init__()
        self.low = low
        self.table = nn.Embedding(20, 8)
        self.query, self.key, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        x = self.table(ids)
        distance = (ids.unsqueeze(1) - ids.unsqueeze(2)).to(x.dtype) * 0.01
        hidden = torch.zeros_like(mask, dtype=x.dtype).masked_fill(mask == 0, self.low).unsqueeze(1)
        scores = self.query(x) @ self.key(x).transpose(1, 2) + hidden + distance
        return self.head((torch.softmax(scores, -1) @ x).mean(1))


@pytest.mark.parametrize("low", [-float("inf"), torch.finfo(torch.float32).min])
def test_masks_are_no_sites(low):
    torch.manual_seed(0)
    model = Masked(low).eval()
    ids, mask = torch.randint(20, (32, 6)), torch.ones(32, 6, dtype=torch.long)
    mask[:, 4:] = 0
    expected = model(ids, mask)
    graph = calibrate(capture(model, (ids, mask)), [((ids, mask), None)])
    names = {site.name for site in graph.sites}
    assert {"query", "key", "matmul", "softmax", "matmul_1"} <= names
    assert not {"masked_fill", "add", "add_1", "mul"} & names
    graph.apply(Policy.uniform(graph.sites, 8, 8))
    torch.testing.assert_close(graph(ids, mask), expected, rtol=0.1, atol=0.02)


def test_a_weight_that_another_layer_makes_is_an_activation():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.make, self.layer = nn.Linear(4, 16), nn.Linear(4, 4)

        def forward(self, x, code):
            return nn.functional.linear(self.layer(x).relu(), self.make(code[0]).view(4, 4)).relu()

    torch.manual_seed(0)
    model, inputs = Dynamic().eval(), (torch.randn(5, 4), torch.randn(5, 4))
    graph = capture(model, inputs)
    torch.testing.assert_close(graph(*inputs), model(*inputs))
    assert {site.name for site in graph.sites.weights} == {"make.weight", "layer.weight"}
    assert graph.sites.operations[-1].right == "make"
