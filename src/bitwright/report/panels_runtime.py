"""The panels of the exported file, as pure data: parity with the simulation, and latency against float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitwright.report import format as text
from bitwright.report.panels import runtime_name
from bitwright.values import Closeness, Figure, Latency, Parity

FLOAT_OUTPUT = "The output stays in float: its steps are 255ths of the range of the simulated values."


@dataclass(frozen=True)
class ParityRow:
    """One way of running the file: the optimisations, how many decisions agree, the largest difference of a value."""

    optimisations: str
    agrees: str
    share: str
    difference: str


@dataclass(frozen=True)
class ParityPanel:
    """The exported file in its runtime against the simulation; ``figure`` is "" when it was not measured."""

    runtime: str
    samples: int
    rows: tuple[ParityRow, ...]
    label: str
    figure: str
    step: str
    sentence: str


@dataclass(frozen=True)
class LatencyPanel:
    """Times against float, one plain sentence, and the operations that the runtime ran in float."""

    rows: tuple[Latency, ...]
    sentence: str
    unfused: tuple[str, ...]


def parity_panel(parity: Parity) -> ParityPanel:
    """What the runtime does with the file: values in output steps, decisions in counts."""
    unit = "output steps" if parity.step is not None else "units of the output"

    def row(name: str, share: float | None, difference: float, values: Closeness | None) -> ParityRow:
        agrees, shown = ("–", "–") if share is None else (text.agreed(parity, share), text.percent(share, 2))
        told = f"{text.significant(difference)} {unit}" if values is None else text.closeness(values)
        return ParityRow(name, agrees, shown, told)

    on = row("on", parity.fused_agreement, parity.fused_difference, parity.fused)
    off = None
    if parity.exact_difference is not None:
        off = row("off", parity.exact_agreement, parity.exact_difference, parity.exact)
    name = runtime_name(parity.runtime)
    normally = " with its graph optimisations off, and {} with them on, the way it is normally run."
    if parity.agreement is None:
        most = f"by at most {on.difference}"
        sentence = f"{name}'s outputs differ from the simulation's by at most {(off or on).difference} on "
        sentence += f"{parity.samples:,} inputs" + (normally.format(most) if off else ".")
        if parity.distance is not None:
            measure, value = parity.distance.measure, parity.distance.value
            sentence += f" The {measure.words} between file and simulation is {text.interval(measure, value)}."
    else:
        sentence = f"{name} agrees with the simulation on {(off or on).agrees}"
        sentence += normally.format(f"on {on.agrees}") if off else "."
    return ParityPanel(
        parity.runtime,
        parity.samples,
        (off, on) if off else (replace(on, optimisations="none"),),
        parity.figure.measure.label if parity.figure else "",
        _figure(parity.figure) if parity.figure else "",
        f"One output step is {text.significant(parity.step)}." if parity.step is not None else FLOAT_OUTPUT,
        sentence,
    )


def _figure(figure: Figure) -> str:
    told, interval = text.interval(figure.measure, figure.value), figure.value
    if interval.method == "none":
        return told
    return f"{told} ({100 * interval.level:g}% {interval.method.replace('wilson', 'Wilson')})"


def latency_panel(latency: Sequence[Latency]) -> LatencyPanel:
    """Times against float; says plainly when the quantized file is slower."""
    slower = [row for row in latency if round(row.ratio, 2) > 1]
    unfused = tuple(dict.fromkeys(name for item in latency for name in item.unfused))
    told = " and ".join(f"{row.ratio:.2f} x the float latency at batch {row.batch}" for row in slower or latency)
    if not latency:
        return LatencyPanel((), "", unfused)
    sentence = f"The quantized file is slower than float: {told}." if slower else f"The quantized file has {told}."
    if unfused:
        reason = ", which is the likely reason" if slower else ""
        sentence += f" {_operations(len(unfused))} not fused into integer kernels{reason}."
    return LatencyPanel(tuple(latency), sentence, unfused)


def _operations(number: int) -> str:
    return "1 operation was" if number == 1 else f"{number} operations were"
