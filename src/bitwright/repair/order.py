"""Which repairs may follow which: an order that would undo what was fitted before is refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.graph.batches import as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.quantizers.uniform import ActivationQuantizer
from bitwright.values import Policy

_RESCALES = "rescales weights and activations"
_MOVES_GRIDS = "moves the grids"
_ROUNDING = "would undo the rounding that adaround learned"
_SEQUENTIAL = "would undo the rounding that gptq found"
_CORRECTION = "would make the bias correction, measured on the present weights and grids, wrong"
_GRIDS = "would make the ranges, set for the present weights and activations, wrong"

REFUSED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cle": {
            "adaround": f"{_RESCALES}, which {_ROUNDING}",
            "gptq": f"{_RESCALES}, which {_SEQUENTIAL}",
            "bias": f"{_RESCALES}, which {_CORRECTION}",
            "ranges": f"{_RESCALES}, which {_GRIDS}",
            "clip": f"{_RESCALES}, which {_GRIDS}",
        },
        "smooth": {
            "adaround": f"{_RESCALES}, which {_ROUNDING}",
            "gptq": f"{_RESCALES}, which {_SEQUENTIAL}",
            "bias": f"{_RESCALES}, which {_CORRECTION}",
            "ranges": f"{_RESCALES}, which {_GRIDS}",
            "clip": f"{_RESCALES}, which {_GRIDS}",
        },
        "granularity": {
            "adaround": f"{_MOVES_GRIDS} of weights, which {_ROUNDING}",
            "gptq": f"{_MOVES_GRIDS} of weights, which {_SEQUENTIAL}",
            "bias": f"{_MOVES_GRIDS} of weights, which {_CORRECTION}",
        },
        "ranges": {
            "adaround": f"{_MOVES_GRIDS} of weights, which {_ROUNDING}",
            "gptq": f"{_MOVES_GRIDS} of weights, which {_SEQUENTIAL}",
            "bias": f"{_MOVES_GRIDS}, which {_CORRECTION}",
        },
        "gptq": {"adaround": _ROUNDING},
        "clip": {
            "bias": f"{_MOVES_GRIDS} of activations, which {_CORRECTION}",
        },
    }
)
"""Repair -> earlier repair -> why it must not follow it."""


_KIND = {"blocks": "adaround"}


def check_order(graph: Graph, name: str) -> None:
    """Raise :class:`InvalidInput` if a repair must not follow those that the graph has had."""
    _check(graph.repairs, name)


def check_sequence(names: Sequence[str]) -> None:
    """Raise :class:`InvalidInput` if some repairs must not follow one another in this order."""
    for position, name in enumerate(names):
        _check([_KIND.get(earlier, earlier) for earlier in names[:position]], name)


def _check(done: Iterable[str], name: str) -> None:
    for earlier in done:
        reason = REFUSED.get(name, {}).get(earlier)
        if reason is not None:
            raise InvalidInput(
                f"repair '{name}' cannot follow '{earlier}': it {reason}; "
                f"start from a fresh graph and run '{name}' first"
            )


def checked_policy(graph: Graph, name: str, policy: Policy | None) -> Policy:
    """The policy that a repair works for: the one given, or the one in force.

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
        quantizer = graph.quantizers[site]
        if isinstance(quantizer, ActivationQuantizer) and not quantizer.calibrated:
            raise InvalidInput(
                f"repair '{name}' comes after the ranges, and site '{site}' has none yet; "
                "call bw.calibrate(graph, batches) first"
            )
    return chosen


def checked_inputs(graph: Graph, name: str, batches: Any, samples: int | None = None) -> list[tuple[Any, ...]]:
    """The inputs of each batch, on the graph's device, at most some number of samples.

    Raises:
        InvalidInput: no batches were given.
        InvalidData: they are empty or unusable.
    """
    if batches is None:
        raise InvalidInput(f"repair '{name}' needs calibration data; pass batches, an iterable of (inputs, targets)")
    found: list[tuple[Any, ...]] = []
    left = samples
    for inputs, _ in iterate(as_batches(batches), graph.device, f"repair '{name}'"):
        graph.check(inputs)
        if left is not None:
            inputs = tuple(value[:left] for value in inputs)
            left -= len(inputs[0])
        found.append(inputs)
        if left is not None and left <= 0:
            break
    return found
