"""Latency from a table of measured operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.cost.model import CostTerms, PairTerm, Width
from bitwright.errors import InvalidInput, nearest
from bitwright.values import Operation, Policy, Sites


@dataclass(frozen=True)
class Latency:
    """Seconds of one run: the sum of what each operation took at its precision, measured elsewhere.

    Nothing is measured here. A combination of widths that the table does not hold cannot be costed:
    ``of`` refuses it, and search never chooses it.

    Attributes:
        table: (operation name, left bits, right bits) -> seconds; None stands for float.
        constant: seconds that no policy changes.
    """

    table: Mapping[tuple[str, Width, Width], float]
    constant: float = 0.0
    name: str = "latency"
    unit: str = "seconds"

    def __post_init__(self) -> None:
        for key, seconds in self.table.items():
            if not (isinstance(key, tuple) and len(key) == 3):
                raise InvalidInput(f"latency keys must be (operation, left bits, right bits), got {key!r}")
            if not 0.0 <= seconds < float("inf"):
                raise InvalidInput(f"latency must be a finite number of seconds >= 0, got {seconds} for {key}")

    def _known(self, op: Operation) -> None:
        names = dict.fromkeys(name for name, _, _ in self.table)
        if op.name not in names:
            raise InvalidInput(
                f"the latency table has no operation '{op.name}'{nearest(op.name, names)}; measure it and add it"
            )

    def of(self, policy: Policy, sites: Sites) -> float:
        """Seconds of one run under a policy.

        Raises:
            InvalidInput: an operation was not measured at the widths of the policy.
        """
        total = self.constant
        for op in sites.operations:
            left = policy[op.left] if op.left is not None else None
            right = policy[op.right] if op.right is not None else None
            seconds = self.table.get((op.name, left, right))
            if seconds is None:
                self._known(op)
                raise InvalidInput(
                    f"the latency table has operation '{op.name}', but not at (left, right) bits "
                    f"({left or 'float'}, {right or 'float'}); measure it and add it"
                )
            total += seconds
        return total

    def terms(self, sites: Sites, bits: Sequence[Width]) -> CostTerms:
        """The decomposition, over the measured combinations only.

        Raises:
            InvalidInput: an operation is not in the table at all.
        """
        constant = self.constant
        linear: dict[str, dict[Width, float]] = {}
        pairs = []
        for op in sites.operations:
            self._known(op)
            if op.left is not None and op.right is not None and op.left != op.right:
                values = {
                    (a, b): self.table[op.name, a, b] for a in bits for b in bits if (op.name, a, b) in self.table
                }
                pairs.append(PairTerm(op.left, op.right, values))
                continue
            site = op.left if op.left is not None else op.right
            if site is None:
                constant += self.of(Policy(), Sites((), (op,))) - self.constant
                continue
            row: dict[Width, float] = {}
            for b in bits:
                key = (op.name, b if op.left is not None else None, b if op.right is not None else None)
                if key in self.table:
                    row[b] = self.table[key]
            before = linear.get(site)
            linear[site] = row if before is None else {b: row[b] + before[b] for b in row if b in before}
        return CostTerms(constant, linear, tuple(pairs))
