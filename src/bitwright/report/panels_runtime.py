"""The panels of the exported file, as pure data: parity with the simulation, and latency against float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.panels import runtime_name
from bitwright.values import Latency, Parity


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
    """Median times of one batch size; ``ratio`` is quantized / float in the same runtime."""

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


def parity_panel(parity: Parity) -> ParityPanel:
    """What the runtime does with the file, in counts and in output steps."""
    raw = "logits" if parity.exact_agreement is not None else "units of the output"
    unit = "output steps" if parity.step is not None else raw
    predictions = parity.predictions or parity.samples

    def agrees(share: float | None) -> str:
        return "–" if share is None else text.count(share, predictions)

    def row(name: str, share: float | None, difference: float) -> ParityRow:
        shown = "–" if share is None else text.percent(share, 2)
        return ParityRow(name, agrees(share), shown, f"{text.significant(difference)} {unit}")

    rows = (
        row("off", parity.exact_agreement, parity.exact_logit_difference),
        row("on", parity.fused_agreement, parity.fused_logit_difference),
    )
    name = runtime_name(parity.runtime)
    if parity.exact_agreement is None:
        sentence = (
            f"{name}'s outputs differ from the simulation's by at most {rows[0].logit_difference} on "
            f"{parity.samples:,} inputs with its graph optimisations off, and by at most {rows[1].logit_difference} "
            "with them on, the way it is normally run."
        )
    else:
        counted = f"positions of {parity.samples:,} inputs" if predictions > parity.samples else "inputs"
        sentence = (
            f"{name} predicts the same class as the simulation on {rows[0].agrees} {counted} with its graph "
            f"optimisations off, and on {rows[1].agrees} with them on, the way it is normally run."
        )
    step = f"One output step is {text.significant(parity.step)}" if parity.step is not None else ""
    return ParityPanel(
        parity.runtime,
        parity.samples,
        rows,
        _accuracy(parity),
        f"{step}{' logits' if raw == 'logits' else ''}." if step else "",
        sentence,
    )


def _accuracy(parity: Parity) -> str:
    interval = parity.accuracy_interval
    if interval is None:
        return "" if parity.accuracy is None else text.percent(parity.accuracy)
    method = interval.method.replace("wilson", "Wilson")
    return f"{text.percent_interval(interval)} ({100 * interval.level:g}% {method})"


def latency_panel(latency: Sequence[Latency]) -> LatencyPanel:
    """Times against float; says plainly when the quantized file is slower."""
    rows = tuple(
        LatencyRow(
            item.batch,
            text.duration(item.float_seconds),
            text.duration(item.seconds),
            item.ratio,
            f"{item.ratio:.2f} x the float latency",
        )
        for item in latency
    )
    slower = [row for row in rows if round(row.ratio, 2) > 1]
    unfused = tuple(dict.fromkeys(name for item in latency for name in item.unfused))
    told = " and ".join(f"{row.ratio:.2f} x the float latency at batch {row.batch}" for row in slower or rows)
    if not rows:
        return LatencyPanel((), "", unfused)
    sentence = f"The quantized file is slower than float: {told}." if slower else f"The quantized file has {told}."
    if unfused:
        reason = ", which is the likely reason" if slower else ""
        sentence += f" {_operations(len(unfused))} not fused into integer kernels{reason}."
    return LatencyPanel(rows, sentence, unfused)


def _operations(number: int) -> str:
    return "1 operation was" if number == 1 else f"{number} operations were"
