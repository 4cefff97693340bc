"""Fronts: the best policies at a range of costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from bitwright.values.json import Value
from bitwright.values.policy import Policy
from bitwright.values.verdict import Verdict

Finite = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]
NotNegative = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Budget(Value):
    """An upper limit on a cost.

    Attributes:
        metric: ``"size"`` (bytes), ``"bops"`` (bit operations per sample), ``"latency"`` (seconds).
        limit: in the metric's unit.
        text: what the user wrote, e.g. ``"bops=W4A4"``.
    """

    metric: str
    limit: Annotated[float, Gt(0)]
    text: str = ""


@dataclass(frozen=True)
class Candidate(Value):
    """One policy of a front.

    Attributes:
        policy: the bits.
        predicted: predicted harm in the table's unit.
        costs: every cost that was computed, metric -> value.
        budgets: the limits it was searched under.
        optimal: proven: no policy within the budgets has a smaller (linearized) predicted harm.
        gap: proven bound on how far from the optimum it can be, relative.
        used: metric -> share of the budget that it uses, 0 to 1.
        verdict: filled in when the policy was measured.
    """

    policy: Policy
    predicted: Finite
    costs: Mapping[str, NotNegative]
    budgets: tuple[Budget, ...] = ()
    optimal: bool = False
    gap: NotNegative = 0.0
    used: Mapping[str, NotNegative] = field(default_factory=dict)
    verdict: Verdict | None = None

    def proof_for(self, policy: Policy, predicted: float) -> tuple[bool, float]:
        """What the search under this candidate's budgets has proven of another policy that keeps them.

        Returns:
            ``optimal`` and ``gap`` of the policy.
        """
        if policy == self.policy:
            return self.optimal, self.gap
        least = self.predicted * (1.0 - self.gap)
        return False, max(self.gap, (predicted - least) / max(abs(predicted), 1e-300))


@dataclass(frozen=True)
class Move(Value):
    """Where a front was while policies were measured.

    Attributes:
        measured: policies measured by then.
        harms: for each candidate the smallest measured harm within its budgets; None where there was none yet.
    """

    measured: int
    harms: tuple[float | None, ...]


@dataclass(frozen=True, repr=False)
class Front(Value, kind="front", version=3):
    """Candidates in the order of their budgets (ascending cost for a whole Pareto front).

    Attributes:
        candidates: one for each budget asked for.
        method: the sensitivity method behind the predictions.
        unit: the unit of ``predicted``.
        cost: the metric of the horizontal axis.
        basis: ``"predicted"``: no candidate was measured; ``"measured"``: each is the best of those that were measured
            within its budgets.
        course: how it moved, one entry for each measurement that moved it, where a budget of measurements was given.
        regret: for each candidate the part of its harm that the best policy within its budgets is expected to save;
            likewise.
    """

    candidates: tuple[Candidate, ...]
    method: str
    unit: str
    cost: str
    basis: Literal["predicted", "measured"] = "predicted"
    course: tuple[Move, ...] = ()
    regret: tuple[float, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(repr(candidate.policy.name) for candidate in self)
        return f"<Front: {self.basis} ({self.method}), {len(self)} candidate{'' if len(self) == 1 else 's'}: {names}>"

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> Candidate:
        return self.candidates[index]
