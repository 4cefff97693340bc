"""Steps 1, 2 and 8 of the flow: the network as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from bitwright.debug.case import Case
from bitwright.debug.mending import Mending, action_of, repairs_left
from bitwright.debug.placements import best_of_each, mostly_linear
from bitwright.debug.state import (
    FAULT_SHARE,
    GUESSING_MARGIN,
    IMPROVEMENT,
    OVERFITTED,
    SANE_DIFFERENCE,
    SANE_DISTANCE,
    SATURATED,
    State,
    better,
    measurement,
)
from bitwright.debug.words import allowed, drop_of, share, target_of, told
from bitwright.graph.batches import iterate
from bitwright.graph.model import in_full_precision
from bitwright.graph.outputs import flatten, kept
from bitwright.tasks import Reference
from bitwright.values import FLOAT, Policy, Site, Verdict
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Recipe


def float_sanity(case: Case, state: State, model: nn.Module | None = None) -> Step:
    """Step 1: does the graph compute what the model computes, and do 16 bits change next to nothing?"""
    title = "Is the float network sound?"
    reference, test = (case.session.reference(part) for part in ("calibration", "evaluation"))
    rows = [Measurement("float", note=_told(reference, test))]
    rule = (
        f"graph and model differ by at most {SANE_DIFFERENCE:g} of the largest output; with all weights, or "
        f"all activations, at 16 bits the {case.distance} is at most {told(case, SANE_DISTANCE)}"
    )
    if model is not None:
        difference = _difference(case, model)
        note = f"largest difference {difference:.2g} of the largest output"
        rows.append(Measurement("graph against model", note=note))
        if difference > SANE_DIFFERENCE:
            conclusion = (
                f"The graph does not compute what the model computes: outputs differ by {difference:.2g} of the "
                "largest one. The steps that follow would mean nothing; look at what the capture does to the model."
            )
            return Step(1, title, "failed", tuple(rows), rule, conclusion, "", state.recipe)
    graph = case.graph(state.recipe)
    worst = 0.0
    # One side at a time: with both at 16 bits, a bias may be too large for its int32 multiple of such small steps.
    for kind in ("weight", "activation"):
        wide = Policy({s.name: 16 for s in graph.sites if s.kind == kind}, graph.graph_hash)
        if wide.bits:
            verdict = case.measure(state.recipe, wide)
            rows.append(measurement(f"every {kind} at 16 bits", verdict))
            worst = max(worst, verdict.distance.value)
    sound = worst <= SANE_DISTANCE
    compared = (
        "computes what the model computes"
        if model is not None
        else "runs (it was not compared with the model, since model= was not given)"
    )
    conclusion = (
        f"The float graph {compared}, and 16 bits change nothing ({told(case, worst)}): whatever is lost is lost to "
        "fewer bits."
        if sound
        else f"Even 16 bits change the outputs ({told(case, worst)}): ranges clip values that "
        "matter, or values are spread over too many orders of magnitude."
    )
    return Step(1, title, "done", tuple(rows), rule, conclusion + _doubts(case, reference, test), "", state.recipe)


def _told(reference: Reference, test: Reference) -> str:
    """The float network's primary figure on both parts of the data."""
    here, there = reference.figure, test.figure
    if here is None or there is None:
        return "no figure of its own: it would be compared with itself"
    form = ".2%" if here.measure.unit == "share" else ".4g"
    name = here.measure.word
    return (
        f"{name} {there.value.value:{form}} on the evaluation data, {here.value.value:{form}} on the calibration data"
    )


def _doubts(case: Case, reference: Reference, test: Reference) -> str:
    """Whether the float network is hardly better than a guess, and whether its figure is saturated."""
    said = ""
    if reference.figure is None or test.figure is None or test.figure.measure.unit != "share":
        return said
    here, there, name = reference.figure.value.value, test.figure.value.value, test.figure.measure.word
    guess = case.task.guess(test.targets)
    if guess is not None and there <= guess + GUESSING_MARGIN:
        said += (
            f" But on the evaluation data the float network ({there:.1%}) is hardly better than always naming the "
            f"most frequent class ({guess:.1%}): check its weights, and how the data is prepared, first."
        )
    if here >= SATURATED or here - there > OVERFITTED:
        why = (
            "is saturated"
            if here >= SATURATED
            else "is that of data that the network was trained on, and higher than on the evaluation data"
        )
        said += f" The {name} on the calibration data ({here:.1%}) {why}, so all choices are ranked by {case.distance}."
    return said


def _difference(case: Case, model: nn.Module) -> float:
    """Largest difference of an output over the first calibration batches, relative to the largest value."""
    worst, largest = 0.0, 0.0
    model = in_full_precision(model)
    with torch.no_grad():
        graph = case.session.graph
        for inputs, _ in itertools.islice(iterate(case.session.batches("calibration"), graph), 4):
            with graph.applied(FLOAT):
                ours, theirs = flatten(graph(*inputs)), kept(graph.calling.run(model, inputs), graph.calling.outputs)
            for mine, wanted in zip(ours.values(), theirs, strict=True):
                worst = max(worst, float((mine.double() - wanted.double()).abs().max()))
                largest = max(largest, float(wanted.double().abs().max()))
    return worst / largest if largest else worst


def by_side(case: Case, recipe: Recipe) -> tuple[dict[str, float], list[Measurement]]:
    """Distance to float with only the weights quantized, and with only the activations."""
    graph = case.graph(recipe)
    alone: dict[str, float] = {}
    rows = []
    for kind, other in (("weight", "activations in float"), ("activation", "weights in float")):
        only = {s.name: graph.policy[s.name] for s in graph.sites if s.kind == kind and graph.policy[s.name]}
        measured = case.measure(recipe, Policy(only, graph.policy.graph_hash, f"{kind}s only"))  # type: ignore[arg-type]
        alone[kind] = measured.distance.value
        rows.append(measurement(f"{kind}s only ({other})", measured))
    return alone, rows


def blamed(alone: dict[str, float]) -> tuple[str, ...]:
    """The sides at fault, by the rule of step 2."""
    total = sum(alone.values())
    return tuple(kind for kind, value in alone.items() if value >= FAULT_SHARE * total)


def weights_or_activations(case: Case, state: State) -> Step:
    """Step 2: is anything lost at all, and by which side?"""
    title = "Weights or activations?"
    rule = (
        f"the target is a drop of at most {allowed(case)} on the evaluation data; a side is at fault if it makes "
        f"up {FAULT_SHARE:.0%} or more of the {case.distance} that both sides alone add up to"
    )
    verdict = case.judge(state.recipe)
    whole = case.measure(state.recipe)
    rows = [measurement(f"{state.recipe.policy.name or 'target'}, everything", whole, note=drop_of(case, verdict))]
    outcome = case.outcome(verdict)
    said = f"{_capital(drop_of(case, verdict))}. {target_of(case, verdict)}"
    if outcome == "holds":
        conclusion = f"{said} There is nothing to mend."
        return Step(2, title, "done", tuple(rows), rule, conclusion, "", state.recipe, verdict, outcome, ())
    alone, sides = by_side(case, state.recipe)
    rows += sides
    total = sum(alone.values())
    at_fault = blamed(alone)
    parts = ", ".join(f"{kind}s alone {told(case, value)} ({share(value, total)})" for kind, value in alone.items())
    words = " and ".join(f"{kind}s" for kind in at_fault)
    conclusion = f"{said} At fault: {words}: {parts}."
    if whole.distance.value > 2 * total and total > 0:
        conclusion += " Together they do more harm than the sum of both."
    elsewhere, advice = _other_placements(case, state.recipe.policy, whole)
    step = Step(2, title, "done", (*rows, *elsewhere), rule, conclusion, "", state.recipe, verdict, outcome, at_fault)
    return replace(step, advice=advice)


def _other_placements(case: Case, policy: Policy, whole: Verdict) -> tuple[list[Measurement], str]:
    """Other placements of the sites at the target's widths, where the network is made for them; and what to take."""
    session = case.session
    if case.model is None or not mostly_linear(session.sites):
        return [], ""
    widths = [_most_frequent(policy, sites) for sites in (session.sites.weights, session.sites.activations)]
    if None in widths:
        return [], ""
    weights, activations = (width or 0 for width in widths)
    found = best_of_each(session, case.model, weights, activations, "calibration")
    rows = [measurement(f"placed as {placed}", placed.verdict) for placed in found]
    both = [placed for placed in found if placed.session.sites.activations]
    best = min(both, key=lambda placed: placed.verdict.distance.value, default=None)
    if best is None or not better(best.verdict.distance.value, whole.distance.value):
        return rows, ""
    advice = (
        f"Placed as {best}, the {case.distance} is {told(case, best.verdict.distance.value)} instead of "
        f"{told(case, whole.distance.value)}: take --quantizer {best.session.settings.quantizer}."
    )
    for placed in found:
        if placed not in both:
            advice += (
                f" Where the file must shrink and nothing else, --quantizer {placed.session.settings.quantizer} has "
                f"{told(case, placed.verdict.distance.value)}."
            )
    return rows, advice


def _most_frequent(policy: Policy, sites: Iterable[Site]) -> int | None:
    """The width that most of some sites have; None where they are in float."""
    widths = [policy[site.name] for site in sites]
    return max(dict.fromkeys(widths), key=widths.count, default=None)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def whole_model(case: Case, state: State) -> Step:
    """Step 8: everything at the target; where that is not enough, training; where that is not either, what would be."""
    title = "Everything quantized: does the target hold?"
    rule = (
        f"the target is a drop of at most {allowed(case)} on the evaluation data; where it is larger, the network is "
        f"trained for a short time on the calibration data, which is kept if the {case.distance} falls by "
        f"{IMPROVEMENT:.0%} or more"
    )
    verdict = state.verdict or case.judge(state.recipe)
    whole = measurement(state.recipe.policy.name or "target", case.measure(state.recipe), note=drop_of(case, verdict))
    said = f"{_capital(drop_of(case, verdict))}. {target_of(case, verdict)}"
    if case.within(verdict):
        outcome = case.outcome(verdict)
        return Step(8, title, "done", (whole,), rule, said, "", state.recipe, verdict, outcome, state.at_fault)
    mending = Mending(case, state)
    mending.rows[0] = whole
    for repair in repairs_left(case, state.recipe, "network"):
        mending.attempt(action_of(case, repair, "network"))
    step = mending.step(8, title, rule, state, mending.start)
    verdict = mending.judged()
    step = replace(step, verdict=verdict, outcome=case.outcome(verdict))
    if mending.kept:
        said += f" {step.conclusion}"
        if case.within(verdict):
            return replace(step, conclusion=said)
    rows, enough = list(step.measured), ""
    for name, policy in _wider(case, state.recipe):
        wider = state.recipe.aimed_at(policy)  # what was fitted to the narrow grids is fitted anew
        judged = case.judge(wider)
        rows.append(measurement(name, case.measure(wider), note=drop_of(case, judged)))
        if case.within(judged):
            enough = name
            break
    longer = "train it longer, on all training data (bitwright qat)"
    if enough:
        said += f" With {enough}, the drop is within the target."
        advice = f"Take more bits ({enough}) or smaller groups, or {longer}."
    else:
        said += " No wider setting that was tried brings the drop within the target."
        advice = f"Wider settings would not be enough: {longer}."
    return replace(step, measured=tuple(rows), conclusion=said, advice=advice)


def _wider(case: Case, recipe: Recipe) -> list[tuple[str, Policy]]:
    """Policies with more bits, cheapest change first."""
    policy, sites = recipe.policy, case.session.sites
    found: list[tuple[str, Policy]] = []

    def raise_to(bits: int, *kinds: str) -> None:
        changes: dict[str, int | None] = {
            s.name: bits for s in sites if s.kind in kinds and (policy[s.name] or 16) < bits
        }
        wider = policy.replaced(changes, f"{' and '.join(f'{kind}s' for kind in kinds)} at {bits} bits")
        if changes and all(dict(wider.bits) != dict(known.bits) for _, known in found):
            found.append((wider.name, wider))

    raise_to(8, "activation")
    raise_to(8, "weight")
    raise_to(8, "weight", "activation")
    raise_to(16, "activation")
    return found
