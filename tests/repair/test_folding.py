"""Batch-norm folding: capture does it, the float function stays, and the repair says what was folded."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.graph import capture
from bitwright.graph.pt2e import quiet
from bitwright.repair import fold


def lively(norm):
    with torch.no_grad():
        norm.weight.uniform_(0.2, 3.0)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.05, 4.0)
    return norm


@st.composite
def networks(draw):
    """Random chains of layers with batch norms behind them, and perhaps one with no layer in front."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers, norms = [], 0
    if draw(st.booleans()):
        layers += [lively(nn.BatchNorm2d(3)), nn.ReLU()]
    alone = len(layers) > 0
    channels = 3
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["full", "depthwise", "transposed"]))
        if kind == "depthwise":
            layers.append(nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels, bias=draw(st.booleans())))
            channels *= 2
        else:
            make = nn.ConvTranspose2d if kind == "transposed" else nn.Conv2d
            layers.append(make(channels, 6, 3, padding=1, bias=draw(st.booleans())))
            channels = 6
        layers.append(lively(nn.BatchNorm2d(channels)))
        norms += 1
        layers.append(nn.ReLU())
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4), lively(nn.BatchNorm1d(4))]
    return nn.Sequential(*layers).eval(), norms + 1, alone


@given(networks())
@settings(max_examples=6, deadline=None)
def test_the_float_function_stays_and_every_fold_is_named(made):
    network, norms, alone = made
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = network(x).detach()
    graph = capture(network, x[:2])
    got = graph(x)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    report = fold(graph)
    plural = "s" if norms > 1 else ""
    assert report.notes[0].startswith(f"capture has folded {norms} batch norm{plural} into the layers in front of them")
    assert report.changes == ()
    left = "1 batch norm with no convolution or linear layer in front stays in float (0)"
    assert report.notes[1:] == ((left,) if alone else ())
    assert torch.equal(graph(x), got)
    with quiet():
        assert fold(copy.deepcopy(graph)).notes == report.notes


def test_a_network_without_batch_norms_says_so():
    graph = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 6, 6))
    assert fold(graph).notes == ("there was no batch norm to fold",)
