"""What a repair did, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.values.json import Value


@dataclass(frozen=True)
class Change(Value):
    """What a repair did at one place.

    Attributes:
        site: the site, layer or pair of layers.
        what: the quantity in ``before`` and ``after``, e.g. ``"output error"``.
        before: its value before the repair.
        after: its value after it.
        details: further numbers.
    """

    site: str
    what: str
    before: float
    after: float
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RepairReport(Value, kind="repair report", version=2):
    """What a repair needed, changed and cost.

    Attributes:
        needs: what it worked with: data, widths.
        changes: one entry for each site, layer or pair that it changed.
        notes: what was left alone and why, and what to keep in mind.
        samples: calibration samples that it looked at.
        name: the repair, as :func:`repair` takes it; it and the times are filled in by the program.
        seconds: wall time.
        processor_seconds: processor time of this process.
    """

    needs: str
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    samples: int = 0
    name: str = ""
    seconds: float = 0.0
    processor_seconds: float = 0.0

    def _means(self) -> list[tuple[str, list[Change], float, float]]:
        """Each quantity with the places where it changed, and its mean before and after."""
        found = []
        for what in dict.fromkeys(change.what for change in self.changes):
            mine = [change for change in self.changes if change.what == what]
            before, after = (sum(getattr(c, end) for c in mine) / len(mine) for end in ("before", "after"))
            found.append((what, mine, before, after))
        return found

    def __str__(self) -> str:
        parts = [f"mean {what} {b:.3g} to {a:.3g} at {_places(len(mine))}" for what, mine, b, a in self._means()]
        said = "; ".join([*parts, *self.notes]) or "nothing to change"
        return f"{self.name}: {said} ({self.seconds:.1f} s)"

    def changed(self) -> tuple[str, ...]:
        """What was changed in words: for each quantity its mean over all places, and the place where it moved most."""
        lines = []
        for what, mine, before, after in self._means():
            if len(mine) == 1:
                lines.append(f"{mine[0].site}: {what} from {before:.3g} to {after:.3g}")
                continue
            most = max(mine, key=lambda change: abs(change.after - change.before))
            lines.append(
                f"{_places(len(mine))}: {what} from {before:.3g} to {after:.3g} on average; "
                f"most at {most.site}, from {most.before:.3g} to {most.after:.3g}"
            )
        return tuple(lines)


def _places(count: int) -> str:
    return f"{count} place{'s' if count > 1 else ''}"
