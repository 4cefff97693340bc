"""The study: float and quantized network on the same inputs, as they are and under shifts (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.arguments import checked
from bitwright.behavior.cases import Case, cases_of, compared
from bitwright.behavior.indicators import LEAST, guard, half, judged
from bitwright.errors import InvalidInput
from bitwright.graph.batches import Checked
from bitwright.graph.graph import Graph
from bitwright.runtimes.parity import written_policy
from bitwright.runtimes.runtime import RUNTIMES
from bitwright.settings import DEFAULTS
from bitwright.tasks.base import Task
from bitwright.tasks.infer import task_for
from bitwright.tasks.intervals import bootstrap_mean, paired_bootstrap, wilson
from bitwright.values import Policy
from bitwright.values.behavior import SEVERITIES, Behavior, Example, Flip, Guard, Judged, Seen, Shifted
from bitwright.values.table import SensitivityTable

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
Remember = Callable[[str, int, Callable[[], dict[str, Any]]], dict[str, Any]]
"""(shift, severity, what makes the record of a case) -> the record."""
FLIPS = 5
"""Changes of decisions that are kept, the most frequent ones."""
EXAMPLES, OF_EACH = 24, 2
"""Inputs that are kept to be looked at, and how many of one case."""


@checked
def behavior(
    graph: Graph,
    target: Policy | str | Path,
    batches: Any,
    shifts: Iterable[str] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    others: Mapping[str, Any] | None = None,
    task: Task | str | None = None,
    caught: float = 0.95,
    tolerance: float | None = None,
    table: SensitivityTable | None = None,
    runtime: str = DEFAULTS.runtime,
    seed: int = 0,
    remember: Remember | None = None,
    progress: Progress | None = None,
) -> Behavior:
    """Compare a quantized network with the float one on inputs that nobody tuned it on.

    Each shift is laid on the same inputs for both networks. Where they decide differently, accuracy can be the same:
    it hides a disagreement in which one is right and one in which the other is. For classes, indicators of the
    quantized network's probabilities are judged by how well they tell disagreements, on all inputs of all shifts
    together, and the best of them becomes a guard: a threshold from which on an input goes to the float network.

    Args:
        graph: calibrated; its policy is left as it was.
        target: a policy, which is simulated; or the path of an exported file, which runs in its runtime.
        batches: evaluation data, (inputs, targets), in the same order whenever it is iterated over. For images the
            smallest and the largest value of each channel are taken for black and white; words are whole numbers, 0
            being padding. Further inputs stay as they are.
        shifts: some of :data:`~bitwright.behavior.SHIFTS`; None: all that work on the first input.
        severities: some of 1 to 5.
        others: name -> batches of other data, such as another domain; or name -> severity -> batches of data that were
            shifted elsewhere, all of them made from the same inputs in the same order.
        task: what the outputs mean; None: inferred.
        caught: share of the disagreements that the guard is to catch.
        tolerance: for tasks that decide nothing: outputs disagree from this distance on, in the unit of the task's.
        table: from Margin-FIT, to predict disagreements of a policy; its variances are taken for those of all inputs.
        runtime: of an exported file.
        seed: of whatever is drawn at random.
        remember: keeps the record of each case, so that a study that was stopped goes on.
        progress: called with (passes done, passes in all).

    Raises:
        InvalidInput: unknown shifts or severities, a share that cannot be caught, or a file that cannot be used.
        InvalidData: no data, or inputs that no shift works on.
        PolicyMismatch: a file of another graph.
        MissingExtra: a package that a shift, a runtime, or judging indicators, needs.
    """
    if not 0 < caught <= 1:
        raise InvalidInput(f"caught must be a share above 0 and at most 1, got {caught!r}")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise InvalidInput(f"tolerance must be a distance above 0, got {tolerance!r}")
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        raise InvalidInput(f"severities must be some of {', '.join(map(str, SEVERITIES))}, got {wrong or 'none'}")
    policy, run, ran = _subject(graph, target, runtime)
    data = Checked(batches, purpose="behavior", graph=graph)  # a shift changes the first input of the network
    meant = task_for(graph, data, task)
    if meant.agreement and tolerance is not None:
        raise InvalidInput(f"tolerance is for tasks that decide nothing; leave it out for the task '{meant.name}'")
    cases = list(cases_of(data, shifts, sorted(set(severities)), others or {}, seed))
    seen: list[Seen] = []
    for number, case in enumerate(cases):

        def compute(case: Case = case) -> dict[str, Any]:
            return compared(graph, policy, case.batches, meant, tolerance, run).to_dict()

        kept = compute() if remember is None else remember(case.name, case.severity, compute)
        seen.append(Seen.from_dict(kept))
        if progress is not None:
            progress(number + 1, len(cases))
    rows = [_row(one, case, seed, policy, table) for one, case in zip(seen, cases, strict=True)]
    indicators, rule, notes = _indicators(seen, cases, meant, caught, seed)
    return Behavior(
        policy.name,
        ran,
        meant.name,
        meant.measure(meant.primary),
        meant.measure(meant.distance),
        rows[0],
        tuple(rows[1:]),
        indicators,
        rule,
        _examples(seen, cases),
        tolerance,
        (*notes, *_left_out(meant, tolerance)),
    )


def _subject(graph: Graph, target: Any, runtime: str) -> tuple[Policy, Callable[..., list[Any]] | None, str]:
    """The policy, what answers in its place, and what that is called."""
    if isinstance(target, Policy):
        target.check(graph.sites)
        return target, None, "simulation"
    chosen = RUNTIMES[runtime]
    session = chosen.load(target)
    return written_policy(session.metadata, graph, target), session, chosen.version()


def _left_out(task: Task, tolerance: float | None) -> tuple[str, ...]:
    if task.agreement or tolerance is not None:
        return ()
    return (
        f"The task '{task.name}' decides nothing, so networks are compared by {task.distance} alone; with a tolerance, "
        "inputs on which that is larger count as disagreements.",
    )


def _row(one: Seen, case: Case, seed: int, policy: Policy, table: SensitivityTable | None) -> Shifted:
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


def _examples(seen: Sequence[Seen], cases: Sequence[Case]) -> tuple[Example, ...]:
    """Of each case the disagreements with the largest distance: of the data as they are, then where there are most."""
    counts = [0.0 if one.differs is None else float(one.differs.mean()) for one in seen]
    order = [0, *sorted(range(1, len(seen)), key=lambda i: -counts[i])]
    found: list[Example] = []
    for i in order:
        one, differs = seen[i], seen[i].differs
        if differs is None:
            continue
        places = np.flatnonzero(differs > 0)
        for place in places[np.argsort(-one.distances[places], kind="stable")][:OF_EACH].tolist():
            before, after = (None if v is None else int(v[place]) for v in (one.before, one.after))
            found.append(Example(cases[i].name, cases[i].severity, place, before, after, float(one.distances[place])))
    return tuple(found[:EXAMPLES])


def _indicators(
    seen: Sequence[Seen], cases: Sequence[Case], task: Task, caught: float, seed: int
) -> tuple[tuple[Judged, ...], Guard | None, tuple[str, ...]]:
    """The indicators on all samples together, the best one first, and the guard that it makes."""
    known = [(one, case) for one, case in zip(seen, cases, strict=True) if one.indicators and one.differs is not None]
    if not known:
        return (), None, ("Indicators need probabilities of classes, one decision for each input; this task has none.",)
    differs = np.concatenate([one.differs > 0 for one, _ in known if one.differs is not None])
    inputs = _origins(known)
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


def _origins(known: Iterable[tuple[Seen, Case]]) -> npt.NDArray[np.int64]:
    """A number for each sample, the same for the same input under all shifts."""
    first: dict[str, int] = {}
    numbers, used = [], 0
    for one, case in known:
        if case.origin not in first:
            first[case.origin] = used
            used += 1 << 32
        numbers.append(first[case.origin] + np.arange(one.samples, dtype=np.int64))
    return np.concatenate(numbers)
