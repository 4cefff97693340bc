"""First-order changes checked against measured ones, at the few places where they are likeliest to be wrong.

The change of a score to first order, gradient times rounding error, says too little where an error is nearly as large
as the value: ahead of a layer norm an error of minus the value changes nothing to first order, whatever it does. And it
says nothing where gradients vanish, as those of a squared error do when the targets are the model's own outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.graph.graph import Graph
from bitwright.graph.variants import Variant, run_variants
from bitwright.sensitivity.method import Array
from bitwright.sensitivity.noise import values_at
from bitwright.values import Policy

FAR = "the first-order prediction is far below what was measured"
VANISHED = "the gradients vanish (are the targets the model's own outputs?)"

PROBED = 8
"""Samples on which changes are measured."""
_COST = 0.1
"""Float passes over all samples that measuring may take, at half a pass for each site."""
_LOST = 0.75
"""Part of a tensor's values that are rounded to zero from which on its site is suspect."""
_FAR, _VANISHED = 3.0, 100.0
"""Measured over predicted size of a change from which on a prediction is far off, and gradients are taken to vanish."""
_DIGITS = 1e-4
"""Changes below this part of the score itself are lost among the digits of float32."""


@dataclass(frozen=True)
class Checked:
    """First-order changes, raised to what was measured.

    Attributes:
        products: (N, S, B).
        doubts: site -> why its changes are not trusted.
    """

    products: Array
    doubts: dict[str, str]


@dataclass(frozen=True)
class Probe:
    """Measured changes of scores.

    Attributes:
        suspects: (site, width) by position, each measured alone.
        changes: for each score (K + 1, n): of the suspects, and of all sites together at the widest width.
    """

    suspects: tuple[tuple[int, int], ...]
    changes: tuple[Array, ...]


def probe(
    graph: Graph,
    inputs: tuple[Any, ...],
    bits: Sequence[int],
    scores: Sequence[Callable[[Any], Array]],
    values: Sequence[Array],
    products: Sequence[Array],
) -> Probe:
    """Measure the sites that are most suspect alone, and all sites together.

    Args:
        graph: calibrated.
        inputs: the first :data:`PROBED` samples.
        bits: B widths, ascending.
        scores: outputs -> (n,) values.
        values: (N,) of each score in float.
        products: (N, S, B) first-order changes of each.
    """
    most = int(_COST * len(values[0]) / (0.5 * PROBED))
    suspects = tuple(_suspects(graph, bits, products)[:most])
    names = graph.sites.names
    policies = [Policy({names[site]: bits[width]}) for site, width in suspects]
    policies.append(Policy(dict.fromkeys(names, bits[-1])))
    changes = [np.zeros((len(policies), len(inputs[0]))) for _ in scores]
    variants = [Variant(tuple(policy.bits), policy) for policy in policies]
    for position, _, outputs in run_variants(graph, [inputs], variants):
        for score, exact, change in zip(scores, values, changes, strict=True):
            change[position] = score(outputs) - exact[: len(inputs[0])]
    return Probe(suspects, tuple(changes))


def checked(found: Probe, which: int, names: Sequence[str], values: Array, products: Array) -> Checked:
    """The first-order changes of one score, raised at suspects to the mean size that was measured.

    Raised alone: a change of the score bends where decisions flip, and a small measured one proves little.

    Args:
        found: what was measured.
        which: the score's position.
        names: of the S sites.
        values: (N,) the score in float.
        products: (N, S, B).
    """
    *alone, together = found.changes[which]
    count = len(together)
    least = _DIGITS * float(np.abs(values).mean())
    doubts: dict[str, str] = {}
    predicted = float(np.sqrt((products[:count, :, -1] ** 2).sum(1)).mean())
    measured = float(np.abs(together).mean())
    if measured > max(_FAR * predicted, least):
        doubts = dict.fromkeys(names, VANISHED if measured > _VANISHED * predicted else FAR)
    raised = products.copy()
    for (site, width), change in zip(found.suspects, alone, strict=True):
        first, size = float(np.abs(products[:count, site, width]).mean()), float(np.abs(change).mean())
        if size <= max(first, least):
            continue
        if size > _FAR * first:
            doubts.setdefault(names[site], VANISHED if first == 0.0 else FAR)
        # What first order hardly sees has no pattern over the samples that could be scaled.
        alike = np.copysign(size, change.mean())
        raised[:, site, width] = products[:, site, width] * (size / first) if size < _VANISHED * first else alike
    return Checked(raised, doubts)


def _suspects(graph: Graph, bits: Sequence[int], products: Sequence[Array]) -> list[tuple[int, int]]:
    """(site, width) by position: where the narrowest width loses most, then where changes rise with bits, or are 0."""
    lost = np.array([_lost(quantizer, bits[0]) for quantizer in graph.quantizers.values()])
    worst = [(int(site), 0) for site in np.argsort(-lost, kind="stable") if lost[site] > _LOST]
    for changes in products:
        sizes = np.abs(changes).mean(0)
        rises = sizes[:, :-1] < sizes[:, 1:] * (1 - 1e-9)
        worst += [(int(site), int(width)) for site, width in np.argwhere(rises | ((sizes == 0)[:, :-1]))]
    return list(dict.fromkeys(worst))


def _lost(quantizer: Any, width: int) -> float:
    """Part of the values, zeros aside, that are rounded to zero."""
    values = values_at(quantizer)
    there = values != 0
    return float(((quantizer.rounded(width, values) == 0) & there).sum() / there.sum().clamp_min(1))
