"""Inputs of the studies, and what a network decides on them."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[1]
    return [(inputs[i : i + 50], targets[i : i + 50]) for i in range(0, 200, 50)]


@pytest.fixture
def decisions():
    """(graph, policy, batches) -> the classes."""

    def decided(graph, policy, batches):
        with graph.applied(policy), torch.no_grad():
            return torch.cat([graph(*inputs).argmax(1) for inputs, _ in batches])

    return decided
