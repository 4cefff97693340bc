from __future__ import annotations

import gc

import torch

from bitwright.sensitivity import sensitivity, workspace
from bitwright.sensitivity.workspace import Workspace


def test_memory_of_a_purpose_is_used_again():
    space, like = Workspace(), torch.zeros(1)
    first = space.take("a", (4, 6), like)
    again = space.take("a", (3, 5), like)
    assert first.data_ptr() == again.data_ptr()
    assert again.shape == (3, 5)
    assert again.is_contiguous()
    assert space.take("b", (4, 6), like).data_ptr() != first.data_ptr()
    assert space.take("a", (4, 7), like).shape == (4, 7)
    assert space.take("a", (2,), torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert space.size == 4 * 24 + 8 * 2


def test_a_graph_keeps_a_small_workspace_and_gives_a_large_one_back(digits_graph, digits_data, monkeypatch):
    inputs, targets = digits_data[0]
    batch = [(inputs[:32], targets[:32])]
    first = sensitivity(digits_graph, batch, "fit", (4,))
    kept = Workspace._of[digits_graph]
    assert 0 < kept.size <= workspace.MOST_KEPT
    second = sensitivity(digits_graph, batch, "fit", (4,))
    assert Workspace._of[digits_graph] is kept
    assert (first.harm == second.harm).all()
    monkeypatch.setattr(workspace, "MOST_KEPT", 0)
    sensitivity(digits_graph, batch, "fit", (4,))
    assert digits_graph not in Workspace._of


def test_a_workspace_goes_with_its_graph(digits_graph, digits_data):
    inputs, targets = digits_data[0]
    gc.collect()  # what other tests left
    count = len(Workspace._of)
    copy = digits_graph.copy()
    sensitivity(copy, [(inputs[:32], targets[:32])], "fit", (4,))
    assert len(Workspace._of) == count + 1
    del copy
    gc.collect()
    assert len(Workspace._of) == count
