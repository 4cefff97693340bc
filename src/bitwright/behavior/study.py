"""The study: float and quantized networks on the same inputs, as they are and under shifts (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.arguments import checked
from bitwright.behavior.cases import cases_of, compared
from bitwright.behavior.summary import examples, indicators, left_out, row
from bitwright.errors import InvalidInput
from bitwright.graph.batches import Checked
from bitwright.graph.graph import Graph
from bitwright.runtimes.parity import written_policy
from bitwright.runtimes.runtime import RUNTIMES
from bitwright.settings import DEFAULTS
from bitwright.tasks.base import Task
from bitwright.tasks.evaluate import Reference, pairs, reference
from bitwright.tasks.infer import task_for
from bitwright.values import Policy
from bitwright.values.behavior import SEVERITIES, Behavior, Seen
from bitwright.values.table import SensitivityTable

Progress = Callable[[int, int], None]
Remember = Callable[[str, int, Callable[[], dict[str, Any]]], dict[str, Any]]
"""(shift, severity, what makes the record of a case) -> the record."""


@dataclass(frozen=True)
class Subject:
    """A quantized network to be studied beside the float network of its graph.

    Attributes:
        graph: calibrated; its policy is left as it was.
        target: a policy, which is simulated; or the path of an exported file, which runs in its runtime.
        table: from Margin-FIT, to predict disagreements of a policy; its variances are taken for those of all inputs.
        remember: keeps the record of each case, so that a study that was stopped goes on.
    """

    graph: Graph
    target: Policy | str | Path
    table: SensitivityTable | None = None
    remember: Remember | None = None


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
    study = Study(graph, batches, shifts, severities, others, task, caught, tolerance, runtime, seed)
    subject = Subject(graph, target, table, remember)
    (seen,) = study.watch([subject], progress)
    return study.found(subject, seen)


class Study:
    """Inputs as they are and under shifts, and what quantized networks make of them; arguments as in :func:`behavior`.

    Args:
        graph: takes the inputs, and settles the task.
        batches: evaluation data.
        shifts: of the data.
        severities: of the shifts.
        others: other data.
        task: what the outputs mean.
        caught: by the guard.
        tolerance: of tasks that decide nothing.
        runtime: of exported files.
        seed: of whatever is drawn at random.

    Attributes:
        cases: the data as they are, then each shift, then other data.
        task: what the outputs mean.
        seed: of whatever is drawn at random.

    Raises:
        InvalidInput: settings that cannot be used.
        InvalidData: no data, or inputs that no shift works on.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Any,
        shifts: Iterable[str] | None,
        severities: Sequence[int],
        others: Mapping[str, Any] | None,
        task: Task | str | None,
        caught: float,
        tolerance: float | None,
        runtime: str,
        seed: int,
    ) -> None:
        if not 0 < caught <= 1:
            raise InvalidInput(f"caught must be a share above 0 and at most 1, got {caught!r}")
        if tolerance is not None and not 0 < tolerance < math.inf:
            raise InvalidInput(f"tolerance must be a distance above 0, got {tolerance!r}")
        wrong = [severity for severity in severities if severity not in SEVERITIES]
        if wrong or not severities:
            raise InvalidInput(f"severities must be some of {', '.join(map(str, SEVERITIES))}, got {wrong or 'none'}")
        data = Checked(batches, purpose="behavior", graph=graph)  # a shift changes the first input of the network
        self.task = task_for(graph, data, task)
        if self.task.agreement and tolerance is not None:
            raise InvalidInput(
                f"tolerance is for tasks that decide nothing; leave it out for the task '{self.task.name}'"
            )
        self.cases = list(cases_of(data, shifts, sorted(set(severities)), others or {}, seed))
        self._caught, self._tolerance, self._runtime, self.seed = caught, tolerance, runtime, seed

    def watch(self, subjects: Sequence[Subject], progress: Progress | None = None) -> list[list[Seen]]:
        """For each subject what was seen in each case; shifted inputs, and a float network they share, are made once.

        Args:
            subjects: the quantized networks.
            progress: called with (passes done, passes in all).
        """
        ran = [self._ready(subject) for subject in subjects]
        networks = Counter(subject.graph.graph_hash for subject in subjects)
        found: list[list[Seen]] = [[] for _ in subjects]
        for number, case in enumerate(self.cases):
            batches = Checked(case.batches, purpose="behavior") if len(subjects) > 1 else case.batches
            floats: dict[str, Reference] = {}
            for place, (subject, (policy, run, _)) in enumerate(zip(subjects, ran, strict=True)):
                graph = subject.graph

                def compute(
                    graph: Graph = graph,
                    policy: Policy = policy,
                    run: Any = run,
                    batches: Any = batches,
                    floats: Any = floats,
                ) -> dict[str, Any]:
                    if networks[graph.graph_hash] > 1 and graph.graph_hash not in floats:
                        floats[graph.graph_hash] = reference(graph, batches, self.task)
                    answers = pairs(graph, policy, batches, self.task, floats.get(graph.graph_hash), run)
                    return compared(answers, self.task, self._tolerance).to_dict()

                kept = compute() if subject.remember is None else subject.remember(case.name, case.severity, compute)
                found[place].append(Seen.from_dict(kept))
                if progress is not None:
                    progress(number * len(subjects) + place + 1, len(self.cases) * len(subjects))
        return found

    def found(self, subject: Subject, seen: Sequence[Seen]) -> Behavior:
        """What was seen of a subject, in figures."""
        policy, _, ran = self._ready(subject)
        rows = [row(one, case, self.seed, policy, subject.table) for one, case in zip(seen, self.cases, strict=True)]
        judged, rule, notes = indicators(seen, self.cases, self.task, self._caught, self.seed)
        return Behavior(
            policy.name,
            ran,
            self.task.name,
            self.task.measure(self.task.primary),
            self.task.measure(self.task.distance),
            rows[0],
            tuple(rows[1:]),
            judged,
            rule,
            examples(seen, self.cases),
            self._tolerance,
            (*notes, *left_out(self.task, self._tolerance)),
        )

    def _ready(self, subject: Subject) -> tuple[Policy, Callable[..., list[Any]] | None, str]:
        """The policy, what answers in its place, and what that is called."""
        if isinstance(subject.target, Policy):
            subject.target.check(subject.graph.sites)
            return subject.target, None, "simulation"
        chosen = RUNTIMES[self._runtime]
        session = chosen.load(subject.target)
        return written_policy(session.metadata, subject.graph, subject.target), session, chosen.version()
