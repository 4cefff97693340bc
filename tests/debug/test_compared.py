"""Alternatives at one site, measured from a common beginning, are what each is as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.debug.mending import compared
from bitwright.repair import apply_recipe
from bitwright.session import Samples, Session
from bitwright.settings import Settings
from bitwright.tasks import Classification, evaluate
from bitwright.values.recipe import Action, Recipe


class Stream(nn.Module):
    """A residual stream, whose additions choose their steps together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for scale, conv in zip((0.1, 1.0, 4.0), self.convs, strict=True):
            x = torch.relu(conv(x) * scale + x)
        return self.linear(x.mean((2, 3)))


def test_alternatives_at_a_site_that_moves_steps_before_it():
    torch.manual_seed(0)
    data = [(torch.randn(16, 3, 6, 6), torch.randint(4, (16,))) for _ in range(2)]
    graph = bw.capture(Stream().eval(), data[0][0])
    recipe = Recipe(bw.Policy.uniform(graph.sites, None, 5), "minmax")
    session = Session(graph, Classification(), Samples.of(data, data), Settings(ranges="minmax"))
    site = [site.name for site in graph.sites.activations if len(graph.linked(site.name)) > 3][-1]
    actions = [
        Action("ranges", {"site": site, "method": "percentile"}),
        Action("limits", {"site": site, "low": 0.0, "high": 0.01}),  # a step so fine that those linked with it follow
    ]
    found = compared(session.under(recipe), site, actions)
    for count, distance in enumerate(found, 1):
        whole = apply_recipe(graph.copy(), Recipe(recipe.policy, "minmax", tuple(actions[:count])), data)
        assert distance == pytest.approx(evaluate(whole, recipe.policy, data).distance.value, rel=1e-9)
