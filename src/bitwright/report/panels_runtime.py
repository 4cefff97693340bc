"""The panels of the exported file, as pure data: parity with the simulation, and latency against float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.panels import runtime_name
from bitwright.values import Interval, Latency, Parity


@dataclass(frozen=True)
class ParityRow:
    """One way of running the file: the optimisations, how many predictions agree, the largest logit difference."""

    optimisations: str
    agrees: str
    share: str
    logit_difference: str


@dataclass(frozen=True)
class ParityPanel:
    """The exported file in its runtime against the simulation; ``accuracy`` is "" when it was not measured."""

    runtime: str
    samples: int
    rows: tuple[ParityRow, ...]
    accuracy: str
    step: str
    sentence: str


@dataclass(frozen=True)
class LatencyRow:
    """Times of one batch size; ``ratio`` is quantized / float in the same runtime."""

    batch: int
    float_text: str
    quantized_text: str
    ratio: float
    verdict: str


@dataclass(frozen=True)
class LatencyPanel:
    """Times against float, one plain sentence, and the operations that the runtime ran in float."""

    rows: tuple[LatencyRow, ...]
    sentence: str
    unfused: tuple[str, ...]


def wilson(share: float, samples: int) -> Interval:
    """The 95% Wilson score interval of a share of so many inputs (Wilson 1927)."""
    z = 1.959964
    if samples <= 0:
        return Interval(share, 0.0, 1.0)
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + (z / (2 * samples)) ** 2)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def parity_panel(parity: Parity) -> ParityPanel:
    """What the runtime does with the file, in counts and in output steps."""
    unit = "output steps" if parity.step is not None else "logits"

    def row(name: str, share: float, difference: float) -> ParityRow:
        return ParityRow(
            name,
            text.count(share, parity.samples),
            text.percent(share, 2),
            f"{text.significant(difference)} {unit}",
        )

    name = runtime_name(parity.runtime)
    exact = text.count(parity.exact_agreement, parity.samples)
    fused = text.count(parity.fused_agreement, parity.samples)
    return ParityPanel(
        parity.runtime,
        parity.samples,
        (
            row("off", parity.exact_agreement, parity.exact_logit_difference),
            row("on", parity.fused_agreement, parity.fused_logit_difference),
        ),
        text.percent_interval(wilson(parity.accuracy, parity.samples)) if parity.accuracy is not None else "",
        f"One output step is {text.significant(parity.step)} logits." if parity.step is not None else "",
        f"{name} predicts the same class as the simulation on {exact} inputs with its graph optimisations off, "
        f"and on {fused} with them on, the way it is normally run.",
    )


def latency_panel(latency: Sequence[Latency]) -> LatencyPanel:
    """Times against float; says plainly when the quantized file is slower."""
    rows = []
    for item in latency:
        if item.ratio > 1:
            verdict = f"slower: {item.ratio:.2f} of float's time"
        else:
            verdict = f"{item.ratio:.2f} of float's time"
        rows.append(
            LatencyRow(item.batch, text.duration(item.float_seconds), text.duration(item.seconds), item.ratio, verdict)
        )
    slower = [row for row in rows if row.ratio > 1]
    unfused = tuple(dict.fromkeys(name for item in latency for name in item.unfused))
    batches = " and ".join(str(row.batch) for row in slower or rows)
    ratios = " and ".join(f"{row.ratio:.2f}" for row in slower or rows)
    if slower:
        sentence = f"The quantized file is slower than float at batch {batches}: {ratios} of float's time."
        if unfused:
            sentence += f" {_operations(len(unfused))} not fused into integer kernels, which is the likely reason."
    elif rows:
        sentence = f"The quantized file takes {ratios} of float's time at batch {batches}."
        sentence += f" {_operations(len(unfused))} not fused into integer kernels." if unfused else ""
    else:
        sentence = ""
    return LatencyPanel(tuple(rows), sentence, unfused)


def _operations(number: int) -> str:
    return "1 operation was" if number == 1 else f"{number} operations were"
