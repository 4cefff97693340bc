"""Handing over: the exported file, compared with the simulation in its runtime, and timed against float there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bitwright.cost import costs_for, stored_cost
from bitwright.graph.batches import cut
from bitwright.report import format as text
from bitwright.session import Session
from bitwright.store import folder as files
from bitwright.store import write_atomically
from bitwright.values import FLOAT, Closeness, Latency, Parity, Policy

EXACT_AGREEMENT = 0.9995
"""Share of equal predictions below which a run warns without optimisations: softmax and layer norms, which stay in
float, differ in their last digit from PyTorch to a runtime, and in one of many thousand positions that decides."""

FUSED_AGREEMENT = 0.995
"""Share of equal predictions below which a run warns: fused integer kernels round a few values the other way."""

MOST_STEPS = 1.001
"""Output steps above which a run warns: a value on an edge may round to its neighbour."""


@dataclass(frozen=True)
class Delivery:
    """What was exported.

    Attributes:
        file: name of the exported file in the output folder, or "".
        bytes: its size.
        float_bytes: size of the float model exported the same way.
        parity: the file in its runtime against the simulation on the evaluation data.
        latency: the file against float in the same runtime.
        notes: how it was stored.
    """

    file: str = ""
    bytes: int = 0
    float_bytes: int = 0
    parity: Parity | None = None
    latency: tuple[Latency, ...] = ()
    notes: tuple[str, ...] = ()


def deliver(session: Session, policy: Policy, folder: Path) -> Delivery:
    """Export the graph under a policy, run the file on the evaluation data, and time it against float."""
    if session.settings.runtime == "none":
        return Delivery()
    from bitwright.runtimes import RUNTIMES, export, latency, parity, scales_json

    name = session.settings.runtime
    graph, target = session.graph, (folder / files.MODEL).with_suffix(RUNTIMES[name].suffix)
    with session.steps.step("export"):
        exported = export(graph, target, runtime=name, policy=policy)
        write_atomically(folder / files.SCALES, scales_json(exported))
    with session.steps.step("compare with the runtime"), graph.applied(policy):
        compared = parity(graph, target, session.batches("evaluation"), runtime=name, task=session.task)
    with session.steps.step("time it"), tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / f"float{target.suffix}"
        export(graph, plain, runtime=name, policy=FLOAT)
        sample = graph.arranged(cut(session.samples.calibration.first, 0, 1)[0])
        times = latency(target, plain, inputs=sample, runtime=name)
    stored = stored_cost().name
    beside = exported.bytes - costs_for(name)[stored].of(policy, graph.sites)
    ours, rest, plain_size = (text.cost(stored, size) for size in (exported.bytes, beside, exported.float_bytes))
    notes = (
        f"{target.name} takes {ours}, of which {rest} describe the graph and are not counted by the cost '{stored}'; "
        f"the float model in the same format takes {plain_size}",
        *warnings(compared),
        *exported.notes,
    )
    return Delivery(target.name, exported.bytes, exported.float_bytes, compared, tuple(times), notes)


def warnings(parity: Parity) -> tuple[str, ...]:
    """What the user should not miss about the file in its runtime."""
    exact = _differs(parity.exact_agreement, EXACT_AGREEMENT, parity.exact)
    if exact:
        way_out = (
            "rely on the figures of the file itself" if parity.exact_drift else "please report this with the model"
        )
        return (
            f"even with its graph optimisations off the runtime does not give what was simulated: {exact}"
            f"{text.drift(parity.exact_drift)}; {way_out}",
        )
    fused = _differs(parity.fused_agreement, FUSED_AGREEMENT, parity.fused)
    if fused and parity.exact_difference is None:
        return (
            f"the runtime does not give what was simulated, since its kernels round differently: {fused}"
            f"{text.drift(parity.fused_drift)}; rely on the figures of the file itself",
        )
    if fused:
        return (
            f"with its graph optimisations on the runtime does not give what was simulated, since its fused kernels "
            f"round differently: {fused}{text.drift(parity.fused_drift)}; rely on the figures of the file itself, or "
            "switch the optimisations off",
        )
    return ()


def _differs(agreement: float | None, least: float, values: Closeness | None) -> str:
    """What differs by more than it may, in words; empty where nothing does."""
    parts = []
    if agreement is not None and agreement < least:
        parts.append(f"{text.percent(1 - agreement)} of its predictions differ")
    if values is not None and values.steps > MOST_STEPS:
        parts.append(f"its outputs differ by up to {text.closeness(values)}")
    return " and ".join(parts)
