"""What a repair needs, checked: widths and calibration data."""

from __future__ import annotations

from typing import Any

from bitwright.errors import InvalidInput
from bitwright.graph.batches import Batch, as_batches, iterate, limited
from bitwright.graph.graph import Graph
from bitwright.values import Policy


def checked_policy(graph: Graph, name: str, policy: Policy | None) -> Policy:
    """The policy that a repair works for: the one given, or the current one.

    Raises:
        InvalidInput: there is none, or some of its activations have no range yet.
        InvalidPolicy: it names unknown sites.
    """
    chosen = graph.policy if policy is None else policy
    if not len(chosen):
        raise InvalidInput(
            f"repair '{name}' needs to know the widths; pass policy=bw.Policy.uniform(graph.sites, 4, 8), "
            "or apply a policy to the graph first"
        )
    chosen.check(graph.sites)
    for site in chosen:
        if not graph.quantizers[site].calibrated:
            raise InvalidInput(
                f"repair '{name}' comes after the ranges, and site '{site}' has none yet; "
                "call bw.calibrate(graph, batches) first"
            )
    return chosen


def checked_inputs(graph: Graph, name: str, batches: Any, samples: int | None = None) -> list[tuple[Any, ...]]:
    """The inputs of each batch, as :func:`checked_batches`, whatever the targets are."""
    return [inputs for inputs, _ in checked_batches(graph, name, batches, samples, False)]


def checked_batches(
    graph: Graph, name: str, batches: Any, samples: int | None = None, targets: bool = True
) -> list[Batch]:
    """Inputs and targets (or None) of each batch, on the graph's device, at most some number of samples.

    Raises:
        InvalidInput: no batches were given.
        InvalidData: they are empty or unusable.
    """
    if batches is None:
        raise InvalidInput(f"repair '{name}' needs calibration data; pass batches, an iterable of (inputs, targets)")
    whole = iterate(as_batches(batches), graph, f"repair '{name}'")
    found = list(limited(whole if targets else ((inputs, None) for inputs, _ in whole), samples))
    for inputs, _ in found:
        graph.check(inputs)
    return found
