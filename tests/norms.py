"""Squared norms of per-sample gradients alone, for tests that compare them with brute force."""

from __future__ import annotations

from bitwright.sensitivity.gradients import gradient_moments


def squared_norms(graph, inputs, *scores):
    """(N, S) squared norm of the gradient of each sample's score at each site, one tensor for each score."""
    return [moments.squares for moments in gradient_moments(graph, inputs, scores)]
