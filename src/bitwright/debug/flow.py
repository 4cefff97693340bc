"""The debugging flow: eight steps from a bad quantized network to a good one, or to what stands in the way.

    1 float sanity -> 2 weights or activations -> 3 mend weights -> 4 mend activations
    -> 5 layer by layer -> 6 look at the worst -> 7 fix quantizers -> 8 the whole network

(The order of AIMET's quantization feature guidebook.) The flow stops as soon as the target holds, with the whole
interval of what is lost. Where the interval reaches beyond the target, it goes on mending; but once what is measured is
within the target it does not pay with bits for what more evaluation samples would decide: then it stops after step 4.
Choices are made on calibration data by distance to float; the evaluation data only says whether the target holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from bitwright.arguments import checked
from bitwright.debug.case import Case
from bitwright.debug.state import State
from bitwright.debug.steps_fix import fix_quantizers
from bitwright.debug.steps_mend import mend_activations, mend_weights
from bitwright.debug.steps_sites import layer_by_layer, look_at_worst
from bitwright.debug.steps_whole import float_sanity, weights_or_activations, whole_model
from bitwright.debug.words import drop_of, listed, target_of
from bitwright.errors import InvalidInput, nearest
from bitwright.graph.graph import Graph
from bitwright.repair import REPAIRS, flow_repairs, functions_of
from bitwright.session import Samples, Session
from bitwright.settings import DEFAULT_DROP, DEFAULTS, Settings
from bitwright.tasks import Task
from bitwright.values import Policy
from bitwright.values.findings import Findings, Step
from bitwright.values.recipe import Action, Recipe
from bitwright.values.verdict import Outcome

STEPS: tuple[Callable[[Case, State], Step], ...] = (
    float_sanity,
    weights_or_activations,
    mend_weights,
    mend_activations,
    layer_by_layer,
    look_at_worst,
    fix_quantizers,
    whole_model,
)
LAST_FREE = 4
"""The last step whose changes cost no bits: from there on the flow also stops where the target is undecided, but what
was measured is within it."""


@checked
def debug(
    subject: Graph | Session,
    task: Task | None = None,
    target_drop: float = DEFAULT_DROP,
    *,
    weights: int | None = 8,
    activations: int | None = 8,
    policy: Policy | None = None,
    model: nn.Module | None = None,
    ranges: str = DEFAULTS.ranges,
    repairs: Mapping[str, Mapping[str, Any]] | tuple[str, ...] | None = None,
    samples: int | None = DEFAULTS.calibration_samples,
    start_at: int = 1,
    recipe: Recipe | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Findings:
    """Find out why a quantized network is bad, and mend it, with evidence at each step.

    Args:
        subject: a captured graph, which is not changed; or a session, which brings task, ranges and samples, and whose
            store makes the flow resumable. The findings' recipe does to the graph what the flow did to its copy, and
            has what was fitted: ``apply_recipe(graph, findings.recipe)``.
        task: calibration data for every choice, evaluation data for the target; for a graph.
        target_drop: points of the task's primary figure that may be lost; percent of float's for a loss or perplexity.
        weights: target bits of all weights; None: float.
        activations: target bits of all activations; None: float.
        policy: target bits site by site, instead of ``weights`` and ``activations``.
        model: the original model, to compare the graph with.
        ranges: how ranges are set to begin with; for a graph.
        repairs: which repairs steps 3, 4 and 8 may use, None: all of :func:`~bitwright.repair.flow_repairs`; as a
            mapping: with their options.
        samples: calibration inputs to use, None: all; for a graph.
        start_at: the step to begin with, 1 to 8.
        recipe: start from this one instead of the plain target.
        on_step: called with each step when it is finished.

    Returns:
        What was measured, concluded and changed, and a recommendation.

    Raises:
        InvalidInput: parameters out of range.
        InvalidData: no data, or data that does not fit.
        PolicyMismatch: a policy or recipe of another graph.
    """
    if not 1 <= start_at <= len(STEPS):
        raise InvalidInput(f"start_at must be between 1 and {len(STEPS)}, got {start_at}")
    if not 0 <= target_drop <= 100:
        raise InvalidInput(f"target_drop must be between 0 and 100 points, got {target_drop}")
    if isinstance(subject, Session):
        session = subject
    else:
        if task is None or task.calibration is None or task.evaluation is None:
            kind = "Classification" if task is None else type(task).__name__
            raise InvalidInput(f"the task needs data here: bw.tasks.{kind}(calibration, evaluation)")
        parts = Samples.of(task.calibration, task.evaluation, samples)
        session = Session(subject, task, parts, Settings(ranges=ranges))
    target = policy if policy is not None else Policy.uniform(session.sites, weights, activations)
    begin = recipe if recipe is not None else Recipe(target, session.recipe.ranges)
    begin.target.check(session.sites)
    if not begin.target.bits:
        raise InvalidInput("the target is float everywhere; give weights=, activations= or policy=")
    case = Case(session, target_drop, _checked_repairs(repairs), model)
    session.under(begin)  # with what was fitted, if it has that
    state, steps = State(begin), []
    for number in range(start_at, len(STEPS) + 1):
        step = _taken(case, state, number, model)
        if step.recipe == begin:
            step = replace(step, recipe=begin)  # with what was fitted
        steps.append(step)
        if on_step is not None:
            on_step(step)
        unchanged = step.recipe == state.recipe
        state = State(
            step.recipe,
            step.at_fault if number > 1 else state.at_fault,
            step.verdict or (state.verdict if unchanged else None),
            (step.sweep if number == 5 else state.sweep) if unchanged or number == 5 else None,
        )
        if step.status == "failed" or step.outcome == "holds":
            break
        if number >= LAST_FREE and state.verdict is not None and case.within(state.verdict):
            break
    if steps[-1].status != "failed":
        steps[-1] = replace(steps[-1], recipe=session.under(steps[-1].recipe).fitted)
    return _findings(case, tuple(steps))


def _checked_repairs(
    repairs: Mapping[str, Mapping[str, Any]] | tuple[str, ...] | None,
) -> dict[str, Mapping[str, Any]]:
    known = [repair.name for repair in flow_repairs()]
    chosen = known if repairs is None else repairs
    found = dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen, {})
    for name in found:
        if name not in known:
            raise InvalidInput(f"repairs must be among {', '.join(known)}, got '{name}'{nearest(name, known)}")
    return found


def _taken(case: Case, state: State, number: int, model: nn.Module | None) -> Step:
    """A step: remembered, or taken now."""
    session = case.session

    def take() -> dict[str, Any]:
        session.reference("calibration")  # counted to no step
        start, start_processor = time.perf_counter(), time.process_time()
        if number == 1:
            step = float_sanity(case, state, model)
        else:
            step = STEPS[number - 1](case, state)
        seconds, processor = time.perf_counter() - start, time.process_time() - start_processor
        return replace(
            step,
            seconds=seconds,
            passes=processor / session.float_seconds,
            measure=case.task.measure(case.task.distance),
        ).to_dict()

    return Step.from_dict(
        session.under(state.recipe).remember(
            "debug step",
            take,
            number=number,
            at_fault=state.at_fault,
            swept=state.sweep is not None,
            target_drop=case.target_drop,
            repairs=dict(case.repairs),
            functions=functions_of(Action("repair", {"name": n, **o}) for n, o in case.repairs.items()),
            tried={name: [REPAIRS[name].mends, REPAIRS[name].worthwhile] for name in case.repairs},
            model=model is not None,
            evaluation=session.samples.evaluation_identity,
        )
    )


def _findings(case: Case, steps: tuple[Step, ...]) -> Findings:
    last = steps[-1]
    verdict = next((step.verdict for step in reversed(steps) if step.verdict is not None), None)
    outcome: Outcome = "fails" if last.status == "failed" or verdict is None else case.outcome(verdict)
    name, done = last.recipe.policy.name or "this policy", listed(last.recipe.actions)
    if last.status == "failed" or verdict is None:
        words = last.conclusion
    elif case.within(verdict):
        words = f"With {done}, {name} has" if done else f"Without any repair, {name} has"
        words += f" {drop_of(case, verdict)}. {target_of(case, verdict)}"
        words += "" if done or outcome == "undecided" else " Nothing needs to be changed."
    else:
        tried = f"With {done}, {name} loses too much." if done else f"{name} loses too much, and no repair helped."
        advice = " ".join(step.advice for step in steps if step.advice)
        words = f"{target_of(case, verdict)} {tried} {advice}".rstrip()
    primary = case.task.measure(case.task.primary).label
    why = f", since the primary figure ({primary}) says little on data that a network was trained on"
    notes = (
        f"Choices are ranked by {case.distance} on calibration data{'' if case.task.compares else why}.",
        "The evaluation data only decided when to stop.",
    )
    return Findings(steps, case.target_drop, outcome, words, notes, case.session.sites.graph_hash)
