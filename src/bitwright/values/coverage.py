"""Coverage: how much of a network the sites reach, and what stays in float whatever the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.values.json import Value


@dataclass(frozen=True)
class LeftOut(Value):
    """An operation, or a parameter, that has a tensor in float under every policy.

    Attributes:
        name: the user's name for the operation, e.g. ``encoder.position.add``.
        kind: ``matmul``, ``add``, ...; the ATen name of an operation that is not known.
        macs: its multiply-accumulates for one sample, all of them left out; 0 for one that multiplies nothing.
        weights: elements of the parameters that it reads in float.
        reason: why, as the end of a sentence.
    """

    name: str
    kind: str
    macs: int
    weights: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What the sites reach. What they do not reach is computed in float, and counts 32 bits in every cost.

    Attributes:
        macs: multiply-accumulates for one sample whose operands both have sites.
        all_macs: of all operations.
        weights: elements of the weights that have sites.
        all_weights: of these and of every other parameter with at least two dimensions longer than 1. Biases and the
            factors of norms, one number a channel, are no weights.
        left_out: what is missing, in the order of execution.
        repeated: weights that at least 16 operations read, each with their number.
    """

    macs: int
    all_macs: int
    weights: int
    all_weights: int
    left_out: tuple[LeftOut, ...] = ()
    repeated: tuple[tuple[str, int], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every multiplication and every weight is covered."""
        return not any(entry.macs or entry.weights for entry in self.left_out)

    def sentences(self) -> tuple[str, ...]:
        """What stays in float, with the reasons: one sentence with the shares, then one for each kind; none if nothing.

        The kinds with the most multiply-accumulates come first, then those with the most weights. The last sentence is
        about loops, if there are any.
        """
        groups: dict[tuple[str, str], list[LeftOut]] = {}
        for entry in self.left_out:
            groups.setdefault((entry.kind, entry.reason), []).append(entry)
        ordered = sorted(groups.items(), key=lambda group: (-_macs(group[1]), -_weights(group[1])))
        shares = (
            f"Whatever the policy, {_percent(self.all_macs - self.macs, self.all_macs)} of the multiply-accumulates "
            f"and {_percent(self.all_weights - self.weights, self.all_weights)} of the weights stay in float, "
            "counted at 32 bits."
        )
        return (
            *([] if self.complete else [shares]),
            *(self._group(kind, reason, entries) for (kind, reason), entries in ordered),
            *self.slow(),
        )

    def slow(self) -> tuple[str, ...]:
        """One sentence that foretells a slow file, where the model's code is a loop over time steps; else none."""
        if not self.repeated:
            return ()
        name, count = self.repeated[0]
        more = f", and {len(self.repeated) - 1} more weights likewise" if len(self.repeated) > 1 else ""
        return (
            f"{count} operations read the weight '{name}'{more}, as in a loop over time steps: an exported file holds "
            "each of them, and will be large and slow; in place of such a loop, nn.LSTM, nn.GRU or nn.RNN on the whole "
            "sequence, without proj_size, is one operation.",
        )

    def _group(self, kind: str, reason: str, entries: Sequence[LeftOut]) -> str:
        names = f"'{entries[0].name}'" if len(entries) == 1 else f"'{entries[0].name}' and {len(entries) - 1} more"
        shares = [f"{_percent(_macs(entries), self.all_macs)} of the multiply-accumulates"] if _macs(entries) else []
        shares += [f"{_percent(_weights(entries), self.all_weights)} of the weights"] if _weights(entries) else []
        return f"{kind} ({names}; {', '.join(shares) or 'no multiply-accumulates'}) stays in float: {reason}."


def _macs(entries: Sequence[LeftOut]) -> int:
    return sum(entry.macs for entry in entries)


def _weights(entries: Sequence[LeftOut]) -> int:
    return sum(entry.weights for entry in entries)


def _percent(part: int, whole: int) -> str:
    """A share in percent; one that is neither none nor all is never written as 0 or 100."""
    if part in (0, whole):
        return "100%" if part else "0%"
    share = 100 * part / whole
    return f"{share:.1f}%" if 0.05 <= share < 99.95 else ("less than 0.1%" if share < 1 else "more than 99.9%")
