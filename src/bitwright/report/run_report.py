"""What a run found, as one value: everything the report shows, and nothing that needs the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.values import Front, Interval, Latency, Parity, Policy, SensitivityTable, Sites, Verdict
from bitwright.values.verdict import Outcome, outcome_of

REPORT_VERSION = 2


@dataclass(frozen=True)
class Measured:
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "policy": policy_to_dict(self.policy),
            "costs": dict(self.costs),
            "verdict": self.verdict.to_dict() if self.verdict else None,
            "predicted": self.predicted,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measured:
        """Inverse of :meth:`to_dict`."""
        policy = data["policy"]
        verdict = Verdict.from_dict(data["verdict"]) if data["verdict"] else None
        return cls(
            Policy(policy["bits"], policy["graph"], policy["name"]), data["costs"], verdict, data.get("predicted")
        )


@dataclass(frozen=True)
class Pair:
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
class Agreement:
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **self.__dict__,
            "pairs": [dict(pair.__dict__) for pair in self.pairs],
            "spearman": self.spearman.to_dict() if self.spearman else None,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Agreement:
        """Inverse of :meth:`to_dict`."""
        spearman = Interval(**data["spearman"]) if data["spearman"] else None
        pairs = tuple(Pair(**pair) for pair in data["pairs"])
        return cls(data["method"], data["unit"], data["measured_unit"], pairs, spearman)


@dataclass(frozen=True)
class RunReport:
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
        agreements: predictions against measurements, one for each method; made from the front when empty.
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
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The baselines, the alternatives, then the chosen policy."""
        return (*self.baselines, *self.alternatives, *((self.chosen,) if self.chosen else ()))

    @property
    def reference(self) -> Verdict | None:
        """A verdict that holds the float model's figures: the chosen policy's, else the first there is."""
        verdicts = [m.verdict for m in reversed(self.measured)] + [c.verdict for c in self.front or ()]
        return next((v for v in verdicts if v is not None), None)

    @property
    def outcome(self) -> Outcome | None:
        """Whether the chosen policy holds the target, where one was asked for and the policy was measured."""
        if self.target_drop is None or self.chosen is None or self.chosen.verdict is None:
            return None
        return outcome_of(self.chosen.verdict.lost, self.target_drop)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "bitwright": "report",
            "version": REPORT_VERSION,
            "title": self.title,
            "sites": self.sites.to_dict(),
            "job": _plain(self.job),
            "float_costs": dict(self.float_costs),
            "chosen": self.chosen.to_dict() if self.chosen else None,
            "baselines": [m.to_dict() for m in self.baselines],
            "alternatives": [m.to_dict() for m in self.alternatives],
            "front": self.front.to_dict() if self.front else None,
            "tables": [t.to_dict() for t in self.tables],
            "agreements": [a.to_dict() for a in self.agreements],
            "exported": self.exported,
            "file_bytes": self.file_bytes,
            "float_file_bytes": self.float_file_bytes,
            "parity": self.parity.to_dict() if self.parity else None,
            "latency": [item.to_dict() for item in self.latency],
            "export_notes": list(self.export_notes),
            "environment": _plain(self.environment),
            "command": self.command,
            "job_file": self.job_file,
            "timings": dict(self.timings),
            "target_drop": self.target_drop,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunReport:
        """Inverse of :meth:`to_dict`.

        Raises:
            InvalidInput: not a report, or a version from the future.
        """
        if not isinstance(data, dict) or data.get("bitwright") != "report":
            raise InvalidInput("this is not a report: it needs the key 'bitwright' with the value 'report'")
        if data.get("version") != REPORT_VERSION:
            raise InvalidInput(
                f"the report has version {data.get('version')}, this Bitwright reads version {REPORT_VERSION}"
            )
        return cls(
            title=data["title"],
            sites=Sites.from_dict(data["sites"]),
            job=data["job"],
            float_costs=data["float_costs"],
            chosen=Measured.from_dict(data["chosen"]) if data["chosen"] else None,
            baselines=tuple(Measured.from_dict(m) for m in data["baselines"]),
            alternatives=tuple(Measured.from_dict(m) for m in data["alternatives"]),
            front=Front.from_dict(data["front"]) if data["front"] else None,
            tables=tuple(SensitivityTable.from_dict(t) for t in data["tables"]),
            agreements=tuple(Agreement.from_dict(a) for a in data["agreements"]),
            exported=data["exported"],
            file_bytes=data.get("file_bytes", 0),
            float_file_bytes=data.get("float_file_bytes", 0),
            parity=Parity.from_dict(data["parity"]) if data["parity"] else None,
            latency=tuple(Latency(**{**item, "unfused": tuple(item["unfused"])}) for item in data["latency"]),
            export_notes=tuple(data["export_notes"]),
            environment=data["environment"],
            command=data["command"],
            job_file=data["job_file"],
            timings=data["timings"],
            target_drop=data["target_drop"],
            notes=tuple(data["notes"]),
        )

    def to_json(self) -> str:
        """The report's data as JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> RunReport:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidInput: not JSON, or not a report.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"the report is not valid JSON: {error}") from None
        return cls.from_dict(data)


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """Plain data of a policy, as fronts store it."""
    return {"name": policy.name, "graph": policy.graph_hash, "bits": dict(policy.bits)}


def _plain(value: Any) -> Any:
    """``value`` with mappings as dicts, sequences as lists, and everything that JSON lacks as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
