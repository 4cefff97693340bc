"""Sweeps: what was measured with a few quantizers switched at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from bitwright.errors import InvalidInput, nearest
from bitwright.values.table import SensitivityTable

MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "kl": "KL to float (nats)",
        "loss": "increase of the loss over float's",
        "accuracy": "drop of accuracy from float's (share)",
        "agreement": "share of predictions that differ from float's",
        "sqnr": "noise at the output, minus SQNR (dB)",
    }
)
"""What a sweep can be ranked by; all of them grow with the harm."""


@dataclass(frozen=True)
class SweepRow:
    """One variant: some sites at other bits, the rest as in the sweep's base policy.

    Attributes:
        label: the site's name, or the block's.
        sites: the sites that were switched.
        bits: the width of each of them; None: float.
        kl: mean Kullback-Leibler divergence from the float to these probabilities, nats.
        kl_error: its standard error.
        agreement: share of inputs on which the predicted class is float's.
        sqnr: at the output: 10 log10(sum z^2 / sum (z' - z)^2) in dB; infinite when no digit changed.
        accuracy: share of correct predictions; None without targets.
        accuracy_error: standard error of the paired difference from float's accuracy.
        loss: mean loss; None without targets.
        loss_error: standard error of the paired difference from float's loss.
    """

    label: str
    sites: tuple[str, ...]
    bits: tuple[int | None, ...]
    kl: float
    kl_error: float
    agreement: float
    sqnr: float
    accuracy: float | None = None
    accuracy_error: float | None = None
    loss: float | None = None
    loss_error: float | None = None

    @property
    def width(self) -> int | str:
        """The width that its sites share, ``"float"``, or ``"mixed"``."""
        widths = set(self.bits)
        if len(widths) != 1:
            return "mixed"
        only = widths.pop()
        return "float" if only is None else only

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an infinite SQNR is None."""
        return {
            **self.__dict__,
            "sites": list(self.sites),
            "bits": list(self.bits),
            "sqnr": self.sqnr if math.isfinite(self.sqnr) else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SweepRow:
        """Inverse of :meth:`to_dict`."""
        sqnr = math.inf if data["sqnr"] is None else data["sqnr"]
        return cls(**{**data, "sites": tuple(data["sites"]), "bits": tuple(data["bits"]), "sqnr": sqnr})


@dataclass(frozen=True)
class Sweep:
    """A sweep over sites: each alone on (base float), or each alone off or at other bits (base a policy).

    Attributes:
        rows: worst first by KL: where the base is float, the row that harms most; else the one whose change
            brings the model nearest to float.
        base: bits of the base policy; empty: float.
        base_row: the base policy itself, measured on the same inputs.
        labels: every label once, in the order of execution.
        samples: inputs used.
        float_accuracy: share of correct predictions of the float model; None without targets.
        float_loss: mean loss of the float model; None without targets.
        graph_hash: the graph it was made for.
        seconds: what it took.
        notes: sentences that qualify the numbers.
    """

    rows: tuple[SweepRow, ...]
    base: Mapping[str, int]
    base_row: SweepRow
    labels: tuple[str, ...]
    samples: int
    float_accuracy: float | None = None
    float_loss: float | None = None
    graph_hash: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def covering(self, share: float) -> int:
        """How many of the worst rows make up this share of the sum of the KLs."""
        total, reached = sum(row.kl for row in self.rows), 0.0
        for count, row in enumerate(self.rows, start=1):
            reached += row.kl
            if reached >= share * total:
                return count
        return len(self.rows)

    def __iter__(self) -> Iterator[SweepRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def harm(self, row: SweepRow, measure: str = "kl") -> float:
        """How far a row is from float: larger is worse, whatever the measure (see :data:`MEASURES`).

        Raises:
            InvalidInput: unknown measure, or one that needs targets that there were not.
        """
        if measure not in MEASURES:
            raise InvalidInput(
                f"measure must be one of {', '.join(MEASURES)}, got '{measure}'{nearest(measure, MEASURES)}"
            )
        if measure in ("accuracy", "loss"):
            value = row.accuracy if measure == "accuracy" else row.loss
            reference = self.float_accuracy if measure == "accuracy" else self.float_loss
            if value is None or reference is None:
                raise InvalidInput(f"the sweep has no {measure}: its batches had no targets; rank it by 'kl'")
            return reference - value if measure == "accuracy" else value - reference
        if measure == "kl":
            return row.kl
        return 1 - row.agreement if measure == "agreement" else -row.sqnr

    def ranking(self, measure: str = "kl") -> tuple[SweepRow, ...]:
        """Rows worst first by a measure; equal ones in the order of :attr:`rows`."""
        sign = 1 if self.base else -1
        return tuple(sorted(self.rows, key=lambda row: sign * self.harm(row, measure)))

    def row(self, label: str, width: int | str | None = None) -> SweepRow:
        """The row of a site or block at a width (or ``"float"``); the width may be left out where there is one.

        Raises:
            InvalidInput: there is no such row, or more than one.
        """
        if label not in self.labels:
            raise InvalidInput(f"the sweep has no row '{label}'{nearest(label, self.labels)}")
        found = [row for row in self.rows if row.label == label and width in (None, row.width)]
        if len(found) != 1:
            widths = ", ".join(str(row.width) for row in self.rows if row.label == label)
            raise InvalidInput(f"width must be one of {widths} for '{label}', got {width}")
        return found[0]

    def table(self, measure: str = "kl") -> SensitivityTable:
        """The sweep as a sensitivity table ``one-site-kl``, ``one-site-loss`` or ``one-site-accuracy``.

        Raises:
            InvalidInput: the base is not float, or the rows are not one site each, all at the same widths.
        """
        if measure not in ("kl", "loss", "accuracy"):
            raise InvalidInput(f"a table can be made of kl, loss or accuracy, got '{measure}'")
        found = {(row.label, row.width): row for row in self.rows if len(row.sites) == 1 and isinstance(row.width, int)}
        widths = sorted({int(width) for _, width in found})
        if self.base or len(found) != len(self.rows) or len(found) != len(self.labels) * len(widths):
            raise InvalidInput("a table needs a sweep of single sites from float, each at every width")
        values = [[self.harm(found[site, width], measure) for width in widths] for site in self.labels]
        errors = [[getattr(found[site, width], f"{measure}_error") for width in widths] for site in self.labels]
        return SensitivityTable(
            f"one-site-{measure}",
            MEASURES[measure],
            tuple(found[site, widths[0]].sites[0] for site in self.labels),
            tuple(widths),
            np.array(values),
            np.array(errors),
            self.samples,
            self.graph_hash,
            notes=("measured: one site at a time, the rest in float", *self.notes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "bitwright": "sweep",
            "version": 1,
            **self.__dict__,
            "rows": [row.to_dict() for row in self.rows],
            "base": dict(self.base),
            "base_row": self.base_row.to_dict(),
            "labels": list(self.labels),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sweep:
        """Inverse of :meth:`to_dict`.

        Raises:
            InvalidInput: not a sweep, or of another version.
        """
        if data.get("bitwright") != "sweep" or data.get("version") != 1:
            raise InvalidInput(f"not a sweep of version 1: {data.get('bitwright')!r}, version {data.get('version')!r}")
        fields = {key: value for key, value in data.items() if key not in ("bitwright", "version")}
        fields["rows"] = tuple(SweepRow.from_dict(row) for row in data["rows"])
        fields["base_row"] = SweepRow.from_dict(data["base_row"])
        fields["labels"], fields["notes"] = tuple(data["labels"]), tuple(data["notes"])
        return cls(**fields)

    def to_json(self) -> str:
        """The sweep as JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Sweep:
        """Read what :meth:`to_json` wrote."""
        return cls.from_dict(json.loads(text))
