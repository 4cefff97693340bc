"""Sweeps: what was measured with a few quantizers switched at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bitwright.errors import InvalidInput, nearest
from bitwright.values.json import Value
from bitwright.values.table import SensitivityTable
from bitwright.values.verdict import Measure


@dataclass(frozen=True)
class SweepRow(Value):
    """One variant: some sites at other bits, the rest as in the sweep's base policy.

    ``row.accuracy`` is the figure "accuracy", likewise for the others.

    Attributes:
        label: the site's name, or the block's.
        sites: the sites that were switched.
        bits: the width of each of them; None: float.
        distance: mean distance to float, in the task's measure.
        distance_error: its standard error.
        sqnr: at the outputs: 10 log10(sum z^2 / sum (z' - z)^2) in dB; infinite when no digit changed.
        figures: name -> mean over the samples of each of the task's figures that is one.
        errors: name -> standard error: of the paired difference from float's figure where float has it.
    """

    label: str
    sites: tuple[str, ...]
    bits: tuple[int | None, ...]
    distance: float
    distance_error: float
    sqnr: float
    figures: Mapping[str, float]
    errors: Mapping[str, float]

    def __getattr__(self, name: str) -> float:
        figures = self.__dict__.get("figures", {})
        if name not in figures:
            raise AttributeError(f"the row has no '{name}'; its figures: {', '.join(figures)}")
        return figures[name]  # type: ignore[no-any-return]

    @property
    def width(self) -> int | str:
        """The width that its sites share, ``"float"``, or ``"mixed"``."""
        widths = set(self.bits)
        if len(widths) != 1:
            return "mixed"
        only = widths.pop()
        return "float" if only is None else only


@dataclass(frozen=True)
class Sweep(Value, kind="sweep", version=3):
    """A sweep over sites: each alone on (base float), or each alone off or at other bits (base a policy).

    Attributes:
        rows: worst first by distance: where the base is float, the row that harms most; else the one whose change
            brings the model nearest to float.
        base: bits of the base policy; empty: float.
        base_row: the base policy itself, measured on the same inputs.
        labels: every label once, in the order of execution.
        samples: inputs used.
        measures: what the figures are; the one of the distance among them.
        distance: the name of the distance.
        primary: the name of the figure that decides.
        floats: name -> figure of the float model.
        graph_hash: the graph it was made for.
        seconds: what it took.
        notes: sentences that qualify the numbers.
        agreement: the name of the share of decisions equal to float's; empty where nothing is decided.
    """

    rows: tuple[SweepRow, ...]
    base: Mapping[str, int]
    base_row: SweepRow
    labels: tuple[str, ...]
    samples: int
    measures: tuple[Measure, ...]
    distance: str
    primary: str
    floats: Mapping[str, float]
    graph_hash: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    agreement: str = ""

    def measure(self, name: str) -> Measure:
        """What is known of a figure."""
        return next(m for m in self.measures if m.name == name)

    def shown(self) -> tuple[Measure, ...]:
        """The figures that the rows have, without the distance."""
        return tuple(m for m in self.measures if m.name in self.base_row.figures and m.name != self.distance)

    def covering(self, share: float) -> int:
        """How many of the worst rows make up this share of the sum of the distances."""
        total, reached = sum(row.distance for row in self.rows), 0.0
        for count, row in enumerate(self.rows, start=1):
            reached += row.distance
            if reached >= share * total:
                return count
        return len(self.rows)

    def __iter__(self) -> Iterator[SweepRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def harm(self, row: SweepRow, measure: str = "distance") -> float:
        """How far a row is from float: larger is worse, whatever the measure.

        Args:
            row: one of the rows.
            measure: ``"distance"``, ``"sqnr"``, or the name of a figure.

        Raises:
            InvalidInput: an unknown measure, or one that needs targets that there were not.
        """
        if measure == "distance":
            return row.distance
        if measure == "sqnr":
            return -row.sqnr
        if measure not in row.figures:
            known = ("distance", "sqnr", *row.figures)
            raise InvalidInput(
                f"measure must be one of {', '.join(known)}, got '{measure}'{nearest(measure, known)} (figures that "
                "need targets exist only when the batches have some)"
            )
        worse = row.figures[measure] - self.floats.get(measure, 0.0)
        if not self.measure(measure).larger:
            return worse
        return -worse if measure in self.floats else 1 - worse

    def ranking(self, measure: str = "distance") -> tuple[SweepRow, ...]:
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

    def table(self, measure: str = "distance") -> SensitivityTable:
        """The sweep as a sensitivity table ``one-site-distance``, ``one-site-loss`` or ``one-site-primary``.

        Where the primary figure is of all samples together, as perplexity is, the loss or the distance takes its place.

        Raises:
            InvalidInput: the base is not float, or the rows are not one site each, all at the same widths.
        """
        whole = measure == "primary" and all(known.name != self.primary for known in self.measures)
        instead = "loss" if "loss" in self.base_row.figures else "distance"
        names = {"distance": self.distance, "primary": self.primary}
        name = names.get(instead if whole else measure, instead if whole else measure)
        found = {(row.label, row.width): row for row in self.rows if len(row.sites) == 1 and isinstance(row.width, int)}
        widths = sorted({int(width) for _, width in found})
        if self.base or len(found) != len(self.rows) or len(found) != len(self.labels) * len(widths):
            raise InvalidInput("a table needs a sweep of single sites from float, each at every width")
        values = [[self.harm(found[site, width], name) for width in widths] for site in self.labels]
        errors = [[found[site, width].errors[name] for width in widths] for site in self.labels]
        replaced = [f"{self.primary} is of all samples together, so the {instead} takes its place"] if whole else []
        return SensitivityTable(
            f"one-site-{measure}",
            self._unit(name),
            tuple(found[site, widths[0]].sites[0] for site in self.labels),
            tuple(widths),
            np.array(values),
            np.array(errors),
            self.samples,
            self.graph_hash,
            notes=("measured: one site at a time, the rest in float", *replaced, *self.notes),
        )

    def _unit(self, name: str) -> str:
        measure = self.measure(name)
        unit = f" ({measure.unit})" if measure.unit else ""
        if name not in self.floats:
            return f"{measure.label}{unit}"
        return f"{'drop' if measure.larger else 'increase'} of {measure.name} against float{unit}"
