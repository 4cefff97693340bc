"""What was seen of a quantized network in every case, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bitwright.behavior.cases import Case
from bitwright.behavior.indicators import LEAST, guard, judged
from bitwright.behavior.inputs import half, origins
from bitwright.tasks.base import Task
from bitwright.tasks.intervals import bootstrap_mean, paired_bootstrap, wilson
from bitwright.values import Policy
from bitwright.values.behavior import Example, Flip, Guard, Judged, Seen, Shifted
from bitwright.values.table import SensitivityTable

FLIPS = 5
"""Changes of decisions that are kept, the most frequent ones."""
EXAMPLES, OF_EACH = 24, 2
"""Inputs that are kept to be looked at, and how many of one case."""


def left_out(task: Task, tolerance: float | None) -> tuple[str, ...]:
    """A note where disagreements could not be counted."""
    if task.agreement or tolerance is not None:
        return ()
    return (
        f"The task '{task.name}' decides nothing, so networks are compared by {task.distance} alone; with a tolerance, "
        "inputs on which that is larger count as disagreements.",
    )


def row(one: Seen, case: Case, seed: int, policy: Policy, table: SensitivityTable | None) -> Shifted:
    """The figures of one case."""
    more: dict[str, Any] = {}
    differs = None if one.differs is None else one.differs > 0
    if one.ours is not None and one.floats is not None:
        change = paired_bootstrap(one.ours, one.floats, seed=seed)
        more = {"float_figure": float(one.floats.mean()), "figure": float(one.ours.mean()), "change": change}
        if differs is not None:
            more["lost"] = int((differs & (one.floats > one.ours)).sum())
            more["gained"] = int((differs & (one.ours > one.floats)).sum())
    if table is not None and table.margin is not None and one.margins is not None:
        more["predicted"] = table.predict_at(policy, one.margins)
    count = None if differs is None else int(differs.sum())
    rate = None if count is None else wilson(count, one.samples)
    distance = bootstrap_mean(one.distances, seed=seed)
    return Shifted(case.name, case.severity, one.samples, count, rate, distance, flips=_flips(one), **more)


def _flips(one: Seen) -> tuple[Flip, ...]:
    if one.before is None or one.after is None:
        return ()
    changed = one.before != one.after
    found = Counter(zip(one.before[changed].astype(int).tolist(), one.after[changed].astype(int).tolist(), strict=True))
    return tuple(Flip(a, b, count) for (a, b), count in found.most_common(FLIPS))


def examples(seen: Sequence[Seen], cases: Sequence[Case], each: int = OF_EACH) -> tuple[Example, ...]:
    """Of each case the disagreements with the largest distance: of the data as they are, then where there are most."""
    counts = [0.0 if one.differs is None else float(one.differs.mean()) for one in seen]
    order = [0, *sorted(range(1, len(seen)), key=lambda i: -counts[i])]
    found: list[Example] = []
    for i in order:
        one, differs = seen[i], seen[i].differs
        if differs is None:
            continue
        places = np.flatnonzero(differs > 0)
        for place in places[np.argsort(-one.distances[places], kind="stable")][:each].tolist():
            before, after = (None if v is None else int(v[place]) for v in (one.before, one.after))
            found.append(Example(cases[i].name, cases[i].severity, place, before, after, float(one.distances[place])))
    return tuple(found[:EXAMPLES])


def indicators(
    seen: Sequence[Seen], cases: Sequence[Case], task: Task, caught: float, seed: int
) -> tuple[tuple[Judged, ...], Guard | None, tuple[str, ...]]:
    """The indicators on all samples together, the best one first, and the guard that it makes."""
    known = [(one, case) for one, case in zip(seen, cases, strict=True) if one.indicators and one.differs is not None]
    if not known:
        return (), None, ("Indicators need probabilities of classes, one decision for each input; this task has none.",)
    differs = np.concatenate([one.differs > 0 for one, _ in known if one.differs is not None])
    inputs = origins((case.origin, one.samples) for one, case in known)
    sides = [differs[side] for fit in [half(inputs, seed)] for side in (fit, ~fit)]
    if any(min(side.sum(), (~side).sum()) < LEAST for side in sides):
        few = f"at least {LEAST} disagreements in each half of the inputs"
        return (), None, (f"Indicators need {few} to be judged; there are {int(differs.sum())} in all.",)
    values = {name: np.concatenate([one.indicators[name] for one, _ in known]) for name in known[0][0].indicators}
    found = sorted(
        (judged(name, each, differs, inputs, seed) for name, each in values.items()), key=lambda i: -i.auroc.value
    )
    right = float_right = None
    if all(one.ours is not None for one, _ in known):
        right = np.concatenate([one.ours for one, _ in known if one.ours is not None])
        float_right = np.concatenate([one.floats for one, _ in known if one.floats is not None])
    best, fit = found[0].name, half(inputs, seed)
    names = [case.name for one, case in known for _ in range(one.samples)]
    tuned_on, measured_on = _apart([case.name for _, case in known], seed)
    tuned, test = fit & np.isin(names, tuned_on), ~fit & np.isin(names, measured_on)
    notes: tuple[str, ...] = ()
    if min((differs & side).sum() for side in (tuned, test)) < LEAST:
        tuned_on = measured_on = list(dict.fromkeys(names))
        tuned, test = fit, ~fit
        notes = (
            "The guard was chosen and measured under the same shifts, on different inputs: there were too few "
            "disagreements to keep some shifts for measuring.",
        )
    rule = guard(task.name, best, values[best], differs, inputs, tuned, test, right, float_right, caught, seed)
    return tuple(found), replace(rule, tuned_on=tuple(tuned_on), measured_on=tuple(measured_on)), notes


def _apart(names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """The shifts to choose a guard under, the data as they are among them, and those to measure it under."""
    shifts = [name for name in dict.fromkeys(names) if name]
    order = np.random.RandomState(seed).permutation(len(shifts))
    return ["", *(shifts[i] for i in sorted(order[::2]))], [shifts[i] for i in sorted(order[1::2])]
