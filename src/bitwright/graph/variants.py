"""Running many variants of a policy and computing only what each of them changes.

A variant differs from a base policy at a few sites. Everything before the first place at which it rounds otherwise is
the same as under the base policy, so it is computed once: the walk goes through the graph in the order of execution,
holds what is still needed at the present place (what any forward pass holds there), and runs the rest of the graph once
for each variant that starts there. Results are those of running each variant as a whole, bit for bit: the same
operations on the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitwright.graph.graph import Graph
from bitwright.graph.twins import Lane
from bitwright.graph.walk import Walk
from bitwright.numerics.affine import Affine
from bitwright.values import FLOAT, Policy

HELD_BYTES = 1 << 28  # values of all batches that walk together: 256 MiB


@dataclass(frozen=True)
class Variant:
    """A policy that differs from the base policy at some sites."""

    sites: tuple[str, ...]
    policy: Policy


def run_variants(
    graph: Graph,
    inputs: Sequence[tuple[Any, ...]],
    variants: Sequence[Variant],
    base: Policy = FLOAT,
    with_base: bool = False,
) -> Iterator[tuple[int, int, Any]]:
    """Outputs of every variant on every batch.

    Args:
        graph: calibrated; its policy is left as it was.
        inputs: the inputs of each batch; they walk together, see :func:`groups`.
        variants: in any order.
        base: the policy that they differ from.
        with_base: at the end also the outputs of the base policy itself, as one more variant behind the others.

    Yields:
        (position of the variant, position of the batch, outputs), variants in the order of the graph.
    """
    walk = Walk(graph.module)
    with torch.no_grad(), graph.applied(base):
        starts = _starts(graph, walk, variants)
        graph.apply(base)
        lane = Lane(walk, inputs)
        for position in sorted(range(len(variants)), key=starts.__getitem__):
            if starts[position] > lane.here:
                graph.apply(base)
                lane.to(starts[position])
            graph.apply(variants[position].policy)
            for i, outputs in enumerate(lane.outputs()):
                yield position, i, outputs
        if with_base:
            graph.apply(base)
            for i, outputs in enumerate(lane.outputs()):
                yield len(variants), i, outputs


def _starts(graph: Graph, walk: Walk, variants: Sequence[Variant]) -> list[int]:
    """The first step of each variant that rounds differently from the current policy.

    Its own sites do not tell: a width can move the steps of other sites (:mod:`bitwright.graph.additions`).
    """
    base, starts = _in_force(graph), []
    for variant in variants:
        grids = _in_force(graph.apply(variant.policy))
        starts.append(walk.start(name for name, grid in grids.items() if not _same(grid, base[name])))
    return starts


def _in_force(graph: Graph) -> dict[str, Affine | None]:
    """The grid at each site, None in float."""
    return {name: None if q.bits is None else q.grid(q.bits) for name, q in graph.quantizers.items()}


def _same(one: Affine | None, other: Affine | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    ends = (one.low, one.high, one.group_size) == (other.low, other.high, other.group_size)
    return ends and torch.equal(one.scale, other.scale) and torch.equal(one.zero_point, other.zero_point)


def groups(graph: Graph, batches: Iterable[Any], held_bytes: int = HELD_BYTES) -> Iterator[list[Any]]:
    """Batches in groups whose walks hold no more than ``held_bytes`` together, at least one batch in each.

    Args:
        graph: in float.
        batches: (inputs, targets) each, inputs being a tuple.
        held_bytes: a group is closed before it would hold more.
    """
    per_sample: float | None = None
    group: list[Any] = []
    size = 0.0
    for batch in batches:
        count = batch[0][0].shape[0]
        if per_sample is None:
            with graph.applied(FLOAT):
                per_sample = Walk(graph.module).held_bytes([value[:1] for value in batch[0]])
        if group and size + per_sample * count > held_bytes:
            yield group
            group, size = [], 0.0
        group.append(batch)
        size += per_sample * count
    if group:
        yield group
