"""What a run found, as one value: everything the report shows, and nothing that needs the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitwright.values import Front, Interval, Latency, Parity, Policy, SensitivityTable, Sites, Verdict
from bitwright.values.json import Value
from bitwright.values.verdict import Outcome, outcome_of


@dataclass(frozen=True)
class Measured(Value):
    """A policy with what it costs and what was measured of it.

    Attributes:
        policy: the bits.
        costs: metric -> value: ``"size"`` in bytes, ``"bops"`` in bit operations per sample, ``"latency"`` in seconds.
        verdict: None when the policy was not measured.
        predicted: predicted harm in the unit of the front, or None.
    """

    policy: Policy
    costs: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    predicted: float | None = None


@dataclass(frozen=True)
class Pair(Value):
    """One policy, predicted and measured.

    Attributes:
        name: of the policy.
        predicted: in the unit of the agreement's ``unit``.
        measured: in the agreement's ``measured_unit``.
        low: lower end of the interval of ``measured``, or None.
        high: upper end, or None.
    """

    name: str
    predicted: float
    measured: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Agreement(Value):
    """How well a method's predictions order policies as the measurements do.

    Attributes:
        method: the sensitivity method.
        unit: of the predictions.
        measured_unit: of the measurements, e.g. ``"top-1 accuracy"`` or ``"share of predictions that flip"``.
        pairs: one for each policy that was predicted and measured.
        spearman: rank correlation with its interval, or None when there are too few pairs.
    """

    method: str
    unit: str
    measured_unit: str
    pairs: tuple[Pair, ...]
    spearman: Interval | None = None

    @property
    def sentence(self) -> str:
        """The rank correlation in words."""
        n, rho = len(self.pairs), self.spearman
        if rho is None:
            return f"{n} measured policies: too few for a rank correlation."
        return (
            f"Spearman's rank correlation over {n} measured policies: {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
            f" ({100 * rho.level:g}%, {rho.method})."
        )


@dataclass(frozen=True)
class RunReport(Value, kind="report", version=3):
    """Everything that the report of a run shows. Parts that were not done stay empty, and the report says so.

    Attributes:
        title: e.g. the model's name.
        sites: the graph's sites.
        job: what was asked: setting -> value (nested mappings and lists are fine).
        float_costs: metric -> cost of the float model.
        chosen: the policy that the run chose.
        baselines: policies to compare with: the uniform ones, or a policy before its repairs.
        alternatives: policies that were chosen for the other budgets.
        front: the candidates of the search; measured ones carry their verdict.
        tables: sensitivity tables, one for each method.
        agreements: predictions against measurements, one for each method.
        exported: the name of the exported file, or "" when nothing was exported.
        file_bytes: its size, 0 when nothing was exported.
        float_file_bytes: the float model's in the same format.
        parity: the exported file in its runtime against the simulation.
        latency: the exported file against float in the same runtime, one for each batch size.
        export_notes: sentences, e.g. ``"3 sites at 3 bits are stored as 4-bit"``.
        environment: e.g. ``{"torch": "2.13.0", "threads": "1"}``.
        command: the command line that makes this run again.
        job_file: the text of the job file, or "".
        timings: step -> seconds.
        target_drop: points of accuracy that may be lost, where that was asked for.
        placement: the name of the placement that the run took, or "".
        notes: sentences that qualify the whole run.
    """

    title: str
    sites: Sites
    job: Mapping[str, Any] = field(default_factory=dict)
    float_costs: Mapping[str, float] = field(default_factory=dict)
    chosen: Measured | None = None
    baselines: tuple[Measured, ...] = ()
    alternatives: tuple[Measured, ...] = ()
    front: Front | None = None
    tables: tuple[SensitivityTable, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    exported: str = ""
    file_bytes: int = 0
    float_file_bytes: int = 0
    parity: Parity | None = None
    latency: tuple[Latency, ...] = ()
    export_notes: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    job_file: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    target_drop: float | None = None
    placement: str = ""
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The baselines, the alternatives, then the chosen policy."""
        return (*self.baselines, *self.alternatives, *((self.chosen,) if self.chosen else ()))

    @property
    def reference(self) -> Verdict | None:
        """A verdict that holds the float model's figures: the chosen policy's, otherwise the first one that exists."""
        verdicts = [m.verdict for m in reversed(self.measured)] + [c.verdict for c in self.front or ()]
        return next((v for v in verdicts if v is not None), None)

    @property
    def outcome(self) -> Outcome | None:
        """Whether the chosen policy holds the target, where one was asked for and the policy was measured."""
        if self.target_drop is None or self.chosen is None or self.chosen.verdict is None:
            return None
        return outcome_of(self.chosen.verdict.lost, self.target_drop)
