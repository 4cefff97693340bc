"""Steps 1, 2 and 8 of the flow: the network as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitwright.debug.bench import Bench
from bitwright.debug.state import (
    FAULT_SHARE,
    GUESSING_MARGIN,
    OVERFITTED,
    SANE_DIFFERENCE,
    SANE_KL,
    SATURATED,
    State,
    measurement,
)
from bitwright.debug.words import drop_of, nats, share, target_of
from bitwright.evaluation.outputs import Outputs
from bitwright.report import format as text
from bitwright.values import Policy
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Recipe


def float_sanity(bench: Bench, state: State, model: nn.Module | None = None) -> Step:
    """Step 1: does the graph compute what the model computes, and do 16 bits change next to nothing?"""
    title = "Is the float network sound?"
    reference, test = bench.reference, bench.evaluation_reference
    note = f"accuracy {test.accuracy:.2%} on the evaluation data, {reference.accuracy:.2%} on the calibration data"
    rows = [Measurement("float", note=note)]
    rule = (
        f"graph and model differ by at most {SANE_DIFFERENCE:g} of the largest logit; with all weights, or all "
        f"activations, at 16 bits the KL to float is at most {SANE_KL:g} nats"
    )
    if model is not None:
        difference = _difference(bench, model)
        note = f"largest difference {difference:.2g} of the largest logit"
        rows.append(Measurement("graph against model", note=note))
        if difference > SANE_DIFFERENCE:
            conclusion = (
                f"The graph does not compute what the model computes: logits differ by {difference:.2g} of the largest "
                "one. Nothing that follows would mean anything; look at what the capture does to the model."
            )
            return Step(1, title, "failed", tuple(rows), rule, conclusion, "", state.recipe)
    graph = bench.graph(state.recipe)
    kl = 0.0
    # One side at a time: with both at 16 bits, a bias may be too large for its int32 multiple of such small steps.
    for kind in ("weight", "activation"):
        wide = Policy({s.name: 16 for s in graph.sites if s.kind == kind}, graph.graph_hash)
        if wide.bits:
            verdict = bench.measure(graph, wide)
            rows.append(measurement(f"every {kind} at 16 bits", verdict))
            kl = max(kl, verdict.kl.value)
    sound = kl <= SANE_KL
    compared = "computes what the model computes" if model is not None else "runs; without model= it is not compared"
    conclusion = (
        f"The float graph {compared}, and 16 bits change nothing ({nats(kl)}): what is lost, bits lose."
        if sound
        else f"Even 16 bits change the outputs ({nats(kl)}): ranges clip values that "
        "matter, or values are spread over too many orders of magnitude."
    )
    guessing = _most_frequent(test)
    if bench.task.metric is None and test.accuracy <= guessing + GUESSING_MARGIN:
        conclusion += (
            f" But on the evaluation data the float network ({test.accuracy:.1%}) is hardly better than naming the "
            f"most frequent class every time ({guessing:.1%}): look at its weights and at the data's preparation first."
        )
    if reference.accuracy >= SATURATED or reference.accuracy - test.accuracy > OVERFITTED:
        conclusion += (
            f" Accuracy on the calibration data ({reference.accuracy:.1%}) is saturated: it ranks nothing, so all "
            "choices are ranked by KL to float."
        )
    return Step(1, title, "done", tuple(rows), rule, conclusion, "", state.recipe)


def _most_frequent(outputs: Outputs) -> float:
    """Share of the most frequent class among the targets."""
    counts = torch.cat([target.flatten() for target in outputs.targets]).long().clamp_min(0).bincount()
    return float(counts.max() / counts.sum())


def _difference(bench: Bench, model: nn.Module) -> float:
    """Largest logit difference over the first calibration batches, relative to the largest logit."""
    worst, largest = 0.0, 0.0
    with torch.no_grad():
        for inputs, _ in bench.calibration[:4]:
            ours, theirs = bench.float_graph(*inputs), model(*inputs)
            if not isinstance(theirs, Tensor):
                return float("inf")
            worst = max(worst, float((ours - theirs).abs().max()))
            largest = max(largest, float(theirs.abs().max()))
    return worst / largest if largest else worst


def by_side(bench: Bench, recipe: Recipe) -> tuple[dict[str, float], list[Measurement]]:
    """KL to float with only the weights quantized, and with only the activations."""
    graph = bench.graph(recipe)
    kls: dict[str, float] = {}
    rows = []
    for kind, other in (("weight", "activations in float"), ("activation", "weights in float")):
        only = {s.name: graph.policy[s.name] for s in graph.sites if s.kind == kind and graph.policy[s.name]}
        measured = bench.measure(graph, Policy(only, graph.policy.graph_hash, f"{kind}s only"))  # type: ignore[arg-type]
        kls[kind] = measured.kl.value
        rows.append(measurement(f"{kind}s only ({other})", measured))
    return kls, rows


def blamed(kls: dict[str, float]) -> tuple[str, ...]:
    """The sides at fault, by the rule of step 2."""
    total = sum(kls.values())
    return tuple(kind for kind, kl in kls.items() if kl >= FAULT_SHARE * total)


def weights_or_activations(bench: Bench, state: State) -> Step:
    """Step 2: is anything lost at all, and by which side?"""
    title = "Weights or activations?"
    rule = (
        f"the target is a drop of at most {text.points(bench.target_drop)} on the evaluation data; a side is at fault "
        f"from {FAULT_SHARE:.0%} of the KL that both sides alone add up to"
    )
    verdict = bench.judge(state.recipe)
    graph = bench.graph(state.recipe)
    whole = bench.measure(graph)
    rows = [measurement(f"{state.recipe.policy.name or 'target'}, everything", whole, note=drop_of(bench, verdict))]
    outcome = bench.outcome(verdict)
    said = f"{_capital(drop_of(bench, verdict))}. {target_of(bench, verdict)}"
    if outcome == "holds":
        conclusion = f"{said} There is nothing to mend."
        return Step(2, title, "done", tuple(rows), rule, conclusion, "", state.recipe, verdict, outcome, ())
    kls, sides = by_side(bench, state.recipe)
    rows += sides
    total = sum(kls.values())
    at_fault = blamed(kls)
    parts = ", ".join(f"{kind}s alone {nats(kl)} ({share(kl, total)})" for kind, kl in kls.items())
    words = " and ".join(f"{kind}s" for kind in at_fault)
    conclusion = f"{said} At fault: {words}: {parts}."
    if whole.kl.value > 2 * total and total > 0:
        conclusion += " Together they do more harm than the sum of both."
    return Step(2, title, "done", tuple(rows), rule, conclusion, "", state.recipe, verdict, outcome, at_fault)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def whole_model(bench: Bench, state: State) -> Step:
    """Step 8: everything at the target; where that is not enough, what would be."""
    title = "Everything quantized: does the target hold?"
    rule = f"the target is a drop of at most {text.points(bench.target_drop)} on the evaluation data"
    verdict = state.verdict or bench.judge(state.recipe)
    measured = bench.measure(bench.graph(state.recipe))
    rows = [measurement(state.recipe.policy.name or "target", measured, note=drop_of(bench, verdict))]
    outcome = bench.outcome(verdict)
    conclusion = f"{_capital(drop_of(bench, verdict))}. {target_of(bench, verdict)}"
    if bench.within(verdict):
        return Step(8, title, "done", tuple(rows), rule, conclusion, "", state.recipe, verdict, outcome, state.at_fault)
    enough = ""
    for name, policy in _wider(bench, state.recipe):
        wider = state.recipe.aimed_at(policy)  # what was fitted to the narrow grids is fitted anew
        judged = bench.judge(wider)
        rows.append(measurement(name, bench.measure(bench.graph(wider)), note=drop_of(bench, judged)))
        if bench.within(judged):
            enough = name
            break
    conclusion += " What stands in the way is the bits themselves: with "
    if enough:
        conclusion += f"{enough} the drop is within the target. Take more bits there, smaller groups, or train (QAT)."
    else:
        conclusion += "no wider setting that was tried is the drop within the target; train with quantization (QAT)."
    return Step(8, title, "done", tuple(rows), rule, conclusion, "", state.recipe, verdict, outcome, state.at_fault)


def _wider(bench: Bench, recipe: Recipe) -> list[tuple[str, Policy]]:
    """Policies with more bits, cheapest change first."""
    policy, sites = recipe.policy, bench.float_graph.sites
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
