"""The study: float and quantized network on the same inputs, as they are and under shifts (Hu et al. 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.behavior.indicators import INDICATORS, LEAST, guard, half, judged
from bitwright.behavior.shift import SEVERITIES, SHIFTS, Scale, Shift, Under
from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import Checked
from bitwright.graph.graph import Graph
from bitwright.tasks.base import Task
from bitwright.tasks.columns import Columns, FloatSide
from bitwright.tasks.evaluate import pairs
from bitwright.tasks.infer import task_for
from bitwright.tasks.intervals import bootstrap_mean, paired_bootstrap, wilson
from bitwright.values import Policy
from bitwright.values.behavior import Behavior, Flip, Guard, Indicator, Shifted

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
FLIPS = 5
"""Changes of decisions that are kept, the most frequent ones."""


def behavior(
    graph: Graph,
    policy: Policy,
    batches: Any,
    shifts: Iterable[str] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    task: Task | str | None = None,
    caught: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> Behavior:
    """Compare a quantized network with the float one on inputs that nobody tuned it on.

    Each shift is laid on the same inputs for both networks. Where they decide differently, accuracy can be the same:
    it hides a disagreement in which one is right and one in which the other is. For classes, indicators of the
    quantized network's probabilities are judged by how well they tell disagreements, on all inputs of all shifts
    together, and the best of them becomes a guard: a threshold from which on an input goes to the float network.

    Args:
        graph: calibrated; its policy is left as it was.
        policy: what to look at.
        batches: evaluation data, (inputs, targets), in the same order whenever it is iterated over. For images the
            smallest and the largest value of each channel are taken for black and white; words are whole numbers, 0
            being padding. Further inputs stay as they are.
        shifts: some of :data:`~bitwright.behavior.SHIFTS`; None: all that work on the first input.
        severities: some of 1 to 5.
        task: what the outputs mean; None: inferred.
        caught: share of the disagreements that the guard is to catch.
        seed: of whatever is drawn at random.
        progress: called with (passes done, passes in all).

    Raises:
        InvalidInput: unknown shifts or severities, or a share that cannot be caught.
        InvalidData: no data, or inputs that no shift works on.
        MissingExtra: a package that a shift, or judging indicators, needs.
    """
    if not 0 < caught <= 1:
        raise InvalidInput(f"caught must be a share above 0 and at most 1, got {caught!r}")
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        raise InvalidInput(f"severities must be some of {', '.join(map(str, SEVERITIES))}, got {wrong or 'none'}")
    policy.check(graph.sites)
    data = Checked(batches, purpose="behavior")
    meant = task_for(graph, data, task)
    scale = Scale.of(data)
    chosen = _chosen(shifts, scale)
    cases: list[tuple[Shift | None, int]] = [
        (None, 0),
        *((shift, s) for shift in chosen for s in sorted(set(severities))),
    ]
    seen = []
    for number, (shift, severity) in enumerate(cases):
        seen.append(_compared(graph, policy, Under(data, shift, severity, scale, seed), meant))
        if progress is not None:
            progress(number + 1, len(cases))
    rows = [
        one.row("" if shift is None else shift.name, severity, seed)
        for one, (shift, severity) in zip(seen, cases, strict=True)
    ]
    indicators, rule, notes = _indicators(seen, caught, seed)
    primary, distance = meant.measure(meant.primary), meant.measure(meant.distance)
    return Behavior(
        policy.name,
        meant.name,
        primary,
        distance,
        rows[0],
        tuple(rows[1:]),
        indicators,
        rule,
        (*notes, *_left_out(meant)),
    )


def _chosen(names: Iterable[str] | None, scale: Scale) -> list[Shift]:
    if names is not None:
        return [SHIFTS[name] for name in dict.fromkeys(names)]
    found = [shift for shift in SHIFTS.values() if shift.kind == scale.kind]
    if not found:
        raise InvalidData(
            "no shift works on these inputs: the first one must be images (N, 1 or 3, H, W) or words, whole numbers "
            "(N, T); register a shift of your own (bitwright.behavior.SHIFTS)"
        )
    return found


def _left_out(task: Task) -> tuple[str, ...]:
    if not task.agreement:
        return (f"The task '{task.name}' decides nothing, so networks are compared by {task.distance} alone.",)
    return ()


@dataclass
class _Seen:
    """What was seen under one shift: (N,) values of each sample."""

    task: Task
    ours: dict[str, Array]
    floats: dict[str, Array]
    pair: dict[str, Array]
    spread: dict[str, float]
    probabilities: Tensor | None
    decisions: tuple[Array, Array] | None

    differs: npt.NDArray[np.bool_] | None = field(init=False)

    def __post_init__(self) -> None:
        agreement = self.pair.get(self.task.agreement) if self.task.agreement else None
        self.differs = None if agreement is None else agreement < 1

    @property
    def samples(self) -> int:
        return len(next(iter(self.pair.values())))

    @property
    def primary(self) -> tuple[Array, Array] | None:
        """The primary figure of each sample, of the quantized and of the float network."""
        name = self.task.primary
        return (self.ours[name], self.floats[name]) if name in self.ours and name in self.floats else None

    def row(self, shift: str, severity: int, seed: int) -> Shifted:
        distance = bootstrap_mean(self.task.distances(self.pair, self.spread), seed=seed)
        differs, figures, more = self.differs, self.primary, dict[str, Any]()
        if figures is not None:
            ours, exact = figures
            change = paired_bootstrap(ours, exact, seed=seed)
            more = {"float_figure": float(exact.mean()), "figure": float(ours.mean()), "change": change}
            if differs is not None:
                more["lost"] = int((differs & (exact > ours)).sum())
                more["gained"] = int((differs & (ours > exact)).sum())
        count = None if differs is None else int(differs.sum())
        rate = None if count is None else wilson(count, self.samples)
        return Shifted(shift, severity, self.samples, count, rate, distance, flips=self._flips(), **more)

    def _flips(self) -> tuple[Flip, ...]:
        if self.decisions is None:
            return ()
        before, after = self.decisions
        changed = before != after
        pairs = Counter(zip(before[changed].astype(int).tolist(), after[changed].astype(int).tolist(), strict=True))
        return tuple(Flip(a, b, count) for (a, b), count in pairs.most_common(FLIPS))


def _compared(graph: Graph, policy: Policy, batches: Iterable[Any], task: Task) -> _Seen:
    """Both networks on some data."""
    ours, pair, floats = Columns(), Columns(), FloatSide(task)
    probabilities: list[Tensor] = []
    decisions: tuple[list[Tensor], list[Tensor]] = [], []
    for answer, expected in pairs(graph, policy, batches, task):
        ours.add(answer.own if answer.targets is not None else {}, answer.count)
        pair.add(task.against(answer, expected), answer.count)
        floats.add(expected)
        exact, share = task.probabilities(expected.raw), task.probabilities(answer.raw)
        if exact is not None and share is not None:
            probabilities.append(share.double().cpu())
            decisions[0].append(exact.argmax(1).cpu())
            decisions[1].append(share.argmax(1).cpu())
    decided = tuple(torch.cat(kept).numpy() for kept in decisions) if probabilities else None
    return _Seen(
        task,
        ours.all(),
        floats.columns.all(),
        pair.all(),
        floats.spread,
        torch.cat(probabilities) if probabilities else None,
        None if decided is None else (decided[0], decided[1]),
    )


def _indicators(
    seen: list[_Seen], caught: float, seed: int
) -> tuple[tuple[Indicator, ...], Guard | None, tuple[str, ...]]:
    """The indicators on all samples together, the best one first, and the guard that it makes."""
    known = [one for one in seen if one.probabilities is not None and one.differs is not None]
    if not known:
        return (), None, ("Indicators need probabilities of classes, one decision for each input; this task has none.",)
    probabilities = torch.cat([one.probabilities for one in known if one.probabilities is not None])
    differs = np.concatenate([one.differs for one in known if one.differs is not None])
    count = int(differs.sum())
    inputs = np.concatenate([np.arange(one.samples) for one in known])
    sides = [differs[side] for fit in [half(inputs, seed)] for side in (fit, ~fit)]
    if any(min(side.sum(), (~side).sum()) < LEAST for side in sides):
        few = f"at least {LEAST} disagreements in each half of the inputs"
        return (), None, (f"Indicators need {few} to be judged; there are {count} in all.",)
    values = {name: function(probabilities).numpy() for name, function in INDICATORS.items()}
    found = sorted(
        (judged(name, each, differs, inputs, seed) for name, each in values.items()), key=lambda i: -i.auroc.value
    )
    figures = [one.primary for one in known]
    right = float_right = None
    if all(pair is not None for pair in figures):
        right, float_right = (np.concatenate([pair[side] for pair in figures if pair is not None]) for side in (0, 1))
    best = found[0].name
    return tuple(found), guard(best, values[best], differs, inputs, right, float_right, caught, seed), ()
