"""One entry for all repairs, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bitwright.errors import InvalidInput, nearest
from bitwright.graph.graph import Graph
from bitwright.repair.adaround import adaround
from bitwright.repair.bias import bias_correction
from bitwright.repair.equalization import equalize
from bitwright.repair.folding import fold
from bitwright.repair.gptq import gptq
from bitwright.repair.outliers import clip, smooth
from bitwright.repair.ranges import set_granularity, set_ranges
from bitwright.repair.report import RepairReport


def brecq(graph: Graph, batches: Any, policy: Any = None, **options: Any) -> RepairReport:
    """:func:`adaround` with ``unit="block"``: residual blocks are reconstructed whole."""
    return adaround(graph, batches, policy, **{**options, "unit": "block"})


REPAIRS: Mapping[str, Callable[..., RepairReport]] = MappingProxyType(
    {
        "fold": fold,
        "cle": equalize,
        "smooth": smooth,
        "granularity": set_granularity,
        "ranges": set_ranges,
        "clip": clip,
        "gptq": gptq,
        "adaround": adaround,
        "blocks": brecq,
        "bias": bias_correction,
    }
)
"""Name -> function, in an order in which they can follow one another."""


@dataclass(frozen=True)
class About:
    """A repair in words.

    Attributes:
        does: what it does, in one sentence.
        needs: what must be there.
        changes: what it changes, and what it leaves as it is.
        costs: its price, in float passes over the calibration data where it is worth a figure.
    """

    does: str
    needs: str
    changes: str
    costs: str


ABOUT: Mapping[str, About] = MappingProxyType(
    {
        "fold": About(
            "Batch-norm folding: each batch norm goes into the layer in front of it.",
            "nothing",
            "nothing: capture has folded all that can be; it says which, and what stays in float",
            "nothing",
        ),
        "cle": About(
            "Cross-layer equalization: neighbouring layers are rescaled so that one step fits all channels.",
            "calibration data for the new ranges",
            "weights and biases of pairs of layers; the float function stays what it is",
            "five to ten float passes",
        ),
        "smooth": About(
            "SmoothQuant: outliers of activations move into the weights of the linear layers that read them.",
            "calibration data; layer norms in front of linear layers",
            "layer norms and linear weights; the float function stays what it is",
            "five to ten float passes",
        ),
        "granularity": About(
            "Weights get one step for each output channel, or for each group of inputs.",
            "nothing",
            "the grids of weights; the file gets more scales",
            "next to nothing",
        ),
        "ranges": About(
            "Ranges are set by another method: minmax, percentile, mse, output, cross-entropy.",
            "calibration data; a policy for the fitted methods",
            "the grids of all sites, of one kind, or of single sites",
            "nothing (minmax) to about ten float passes (output)",
        ),
        "clip": About(
            "A search for how much of each activation's range to keep.",
            "calibration data and a policy",
            "ranges of activations",
            "about twenty float passes",
        ),
        "gptq": About(
            "GPTQ: weights are rounded one after the other, each error made good in those still to come.",
            "calibration data and a policy",
            "integers and biases of weights at the policy's widths; the float network stays what it is",
            "about ten float passes",
        ),
        "adaround": About(
            "AdaRound: it is learned, layer by layer, which weights are rounded up and which down.",
            "calibration data and a policy",
            "integers and biases of weights at the policy's widths; the float network stays what it is",
            "tens to hundreds of float passes, in proportion to the iterations",
        ),
        "blocks": About(
            "BRECQ: as adaround, with each residual block fitted as a whole.",
            "calibration data and a policy",
            "integers and biases of weights at the policy's widths; the float network stays what it is",
            "more than adaround",
        ),
        "bias": About(
            "Bias correction: biases take back what quantization shifts the mean outputs by.",
            "calibration data and a policy",
            "biases at the policy's widths; the float network stays what it is",
            "five to ten float passes",
        ),
    }
)
"""Name -> what a user should know of it."""


def repair(graph: Graph, name: str, batches: Any = None, **options: Any) -> RepairReport:
    """Mend a graph in place with one repair; the model that was captured isn't touched.

    ``graph.repairs`` keeps the names of those that were applied. An order in which one would undo another is refused.

    Args:
        graph: from :func:`~bitwright.graph.capture`; for all repairs but ``"fold"`` and ``"cle"`` calibrated.
        name: ``"fold"``, ``"cle"``, ``"smooth"``, ``"granularity"``, ``"ranges"``, ``"clip"``, ``"gptq"``,
            ``"adaround"``, ``"blocks"`` or ``"bias"``.
        batches: calibration data, an iterable of (inputs, targets).
        options: of the repair: see the functions in :data:`REPAIRS`.

    Returns:
        What it needed, changed and cost.

    Raises:
        InvalidInput: an unknown repair or option, or an order that makes no sense.
    """
    check_options(name, options)
    return REPAIRS[name](graph, batches, **options)


def options_of(name: str) -> dict[str, Any]:
    """Options of a repair with their defaults; ``policy`` is the widths, None for the policy in force.

    Raises:
        InvalidInput: an unknown repair.
    """
    if name not in REPAIRS:
        raise InvalidInput(f"repair must be one of {', '.join(REPAIRS)}, got '{name}'{nearest(name, REPAIRS)}")
    function = adaround if name == "blocks" else REPAIRS[name]
    hidden = ("graph", "batches", "unit") if name == "blocks" else ("graph", "batches")
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name not in hidden}


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise :class:`InvalidInput` for an unknown repair, or an option that it does not have."""
    known = options_of(name)
    for option in options:
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise InvalidInput(f"repair '{name}' has no option '{option}'{nearest(option, known)} ({has})")
