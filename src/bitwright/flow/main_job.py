"""The main job on one page: from a PyTorch model to a mixed-precision model that a real runtime executes.

    capture -> calibrate -> sensitivity -> front -> measure and refine -> choose -> evaluate -> export -> report

Every choice is made on calibration data: ranges and scores on some samples, the ranking of candidates on others that
were held out. The evaluation data only measures what was chosen. Candidates are ranked by the task's distance to the
float model, since accuracy on data that a network was trained on is saturated and ranks nothing.

Every measurement goes through the run store under a key of its content, so a run that was stopped, killed or repeated
goes on from what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bitwright.cost import costs_for, costs_of, headline_costs, parse_budgets, stored_cost, uniform_policy
from bitwright.data import DataSets
from bitwright.errors import InvalidInput
from bitwright.flow import outputs
from bitwright.flow.choose import (
    Choice,
    best_within,
    cheapest_holding,
    with_choices,
    without_repeats,
)
from bitwright.flow.deliver import deliver
from bitwright.flow.placing import placed
from bitwright.flow.repaired import cheapest_repaired, given
from bitwright.flow.scores import gave_way, made_for, score
from bitwright.repair import keep_fitted
from bitwright.report import Agreement, Measured, Pair, RunReport
from bitwright.report import format as text
from bitwright.report.panels_front import course_notes
from bitwright.search import Constraints, Refinement, refine, search, uniform_within
from bitwright.sensitivity.agreement import spearman_interval
from bitwright.session import Progress, Session, Steps
from bitwright.settings import Settings
from bitwright.store import RunStore, content_key, write_atomically
from bitwright.store import folder as files
from bitwright.values import FLOAT, Budget, Candidate, Front, Interval, Policy, SensitivityTable, Verdict
from bitwright.values.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """How a run was asked for, for the record; nothing is computed from it.

    Attributes:
        title: of the report, e.g. the model's name.
        settings: setting -> value as the user gave them.
        command: the command line that makes this run again.
        job_file: gives the text of the job file for the placement that was taken: as it is kept in the output folder,
            and as the report shows it.
    """

    title: str = "model"
    settings: dict[str, Any] | None = None
    command: str = ""
    job_file: Callable[[str], tuple[str, str]] | None = None


def run(
    model: Any,
    data: DataSets,
    output: str | Path,
    settings: Settings | None = None,
    asked: Asked | None = None,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
) -> RunReport:
    """Do the main job and write everything to a folder.

    Args:
        model: in evaluation mode, or an exported program.
        data: calibration data, on which everything is chosen, and evaluation data, on which it is measured.
        output: the folder; what an earlier run measured there is used again.
        settings: None for the defaults.
        asked: how the run was asked for, for the report.
        progress: called with (step, units done, of how many or None).
        recipe: take this policy with its repairs instead of choosing one; without a budget.

    Returns:
        What the report shows.

    Raises:
        BitwrightError: bad input, an impossible budget, a missing extra, a full disk; each with one clear line.
    """
    settings, asked, steps = settings or Settings(), asked or Asked(), Steps(progress)
    outputs.check_extras(settings)
    if recipe is not None and settings.budget:
        raise InvalidInput(f"a recipe has its own policy; leave out budget, got {settings.budget[0]}")
    with RunStore(output) as store:
        session, placing = placed(model, data, settings, store, steps, recipe)
        store.own(work_of(session, settings, recipe), asked.command or "bitwright.flow.run")
        final = session if recipe is None else session.under(recipe)
        models = costs_for(settings.runtime)
        budgets = [parse_budgets(entry, session.sites, models) for entry in settings.budget]
        tables = score(session, methods := made_for(settings.method))
        refined = explore(session, tables, budgets)
        if recipe is not None:
            choices = [given(final, recipe, refined_prediction(refined, recipe.policy))]
        else:
            choices = choose(session, tables, refined, budgets)
        if recipe is None and settings.target_drop is not None and settings.repairs and not budgets:
            choices[0], recipe = cheapest_repaired(session, refined.front, choices[0])
            final = session if recipe is None else session.under(recipe)
        front, policy = with_choices(refined.front, choices), choices[0].candidate.policy
        figures = evaluate_all(session, final, choices, refined, front)
        placement = session.settings.quantizer if isinstance(session.settings.quantizer, str) else ""
        job_file, shown = asked.job_file(placement) if asked.job_file is not None else ("", "")
        with store.results("run") as folder:
            outputs.write_tables(folder, tables)
            front.save(folder / files.FRONT)
            policy.save(folder / files.POLICY)
            if final is not session:
                final.fitted.save(folder / files.RECIPE)
            elif session is not session.plain:
                keep_fitted(session.graph, session.recipe.aimed_at(policy)).save(folder / files.RECIPE)
            if job_file:
                write_atomically(folder / files.JOB, job_file)
            delivery = deliver(final, policy, folder)
            report = RunReport(
                title=asked.title,
                sites=session.sites,
                job=asked.settings or {},
                float_costs=costs(session, FLOAT),
                chosen=figures.chosen,
                baselines=figures.uniform,
                alternatives=figures.alternatives,
                front=figures.front,
                tables=tables,
                agreements=tuple(agreement(session, table, refined) for table in tables),
                exported=delivery.file,
                file_bytes=delivery.bytes,
                float_file_bytes=delivery.float_bytes,
                parity=delivery.parity,
                latency=delivery.latency,
                export_notes=delivery.notes,
                environment=outputs.environment(session.graph.device),
                command=asked.command,
                job_file=shown,
                timings=dict(steps.seconds),
                target_drop=settings.target_drop,
                placement=placement,
                notes=(
                    *placing,
                    *notes(session, choices, recipe),
                    *unfitted(refined),
                    *course_notes(refined.front),
                    *gave_way(methods, tables),
                    *no_smaller(session, tables[0], budgets),
                ),
            )
            with steps.step("write the report"):
                outputs.write_report(folder, report)
    return report


def work_of(session: Session, settings: Settings, recipe: Recipe | None) -> str:
    """Names the job by its content: whoever does the same in the same folder shares the work."""
    plain = settings.model_dump(exclude={"task", "loss", "metric", "quantizer"})  # the session knows of these
    return content_key(session=session.identity, settings=plain, recipe="" if recipe is None else recipe.digest)


def explore(session: Session, tables: tuple[SensitivityTable, ...], budgets: list[tuple[Budget, ...]]) -> Refinement:
    """The Pareto front and a candidate for each budget asked for, measured, and refined by what was measured.

    Raises:
        ImpossibleBudget: a budget that no policy keeps; says what the smallest possible is.
    """
    settings, sites = session.settings, session.sites
    limits, models = constraints(settings), costs_for(settings.runtime)
    with session.steps.step("search"):
        find = partial(search, sites, tables[0], cost=settings.cost, constraints=limits, costs=models)
        wanted = find(budgets=budgets) if budgets else ()
        whole = find(points=settings.points)
    start = replace(whole, candidates=(*whole, *wanted))
    with session.steps.step("measure candidates") as tell:
        for done, candidate in enumerate(start, start=1):
            session.share(candidate.policy)
            tell(done)

        def measure(policy: Policy) -> Verdict:
            verdict = session.measure(policy)
            tell(max(len(start), session.measured + session.reused))
            return verdict

        unit = ranked_by(session)
        return refine(
            start,
            measure,
            sites,
            tables,
            constraints=limits,
            costs=models,
            rounds=settings.rounds,
            evaluations=settings.evaluations,
            minutes=settings.minutes,
            unit=unit,
            seed=settings.seed,
        )


def constraints(settings: Settings) -> Constraints:
    """What the search may choose from."""
    return Constraints(pinned=dict(settings.pins))


def choose(
    session: Session,
    tables: tuple[SensitivityTable, ...],
    refined: Refinement,
    budgets: list[tuple[Budget, ...]],
) -> list[Choice]:
    """One choice for each budget; without budgets the cheapest policy that holds the target. See ``choose.py``."""
    settings, sites, models = session.settings, session.sites, costs_for(session.settings.runtime)
    if not budgets:
        return [cheapest_holding(without_repeats(refined.front), settings.drop, session.samples.holdout.samples)]
    choices = []
    with session.steps.step("choose", len(budgets)) as tell:
        for place, limits in enumerate(budgets):
            pool = list(refined.front)
            for table in tables[1:]:  # what the other scores would have chosen
                (other,) = search(
                    sites,
                    table,
                    cost=settings.cost,
                    budgets=[limits],
                    constraints=constraints(settings),
                    costs=models,
                )
                pool.append(measured_candidate(session, other.policy, refined))
            uniform = uniform_within(sites, tables[0], limits, models, constraints(settings))
            pool += [measured_candidate(session, policy, refined) for policy in uniform]
            choices.append(best_within(pool, limits, sites, models))
            tell(place + 1)
    return choices


def measured_candidate(session: Session, policy: Policy, refined: Refinement) -> Candidate:
    """A policy from elsewhere than the refined front, measured as its candidates were."""
    predicted = refined_prediction(refined, policy)
    assert predicted is not None  # it is made of the widths that were scored
    return Candidate(policy, predicted, costs(session, policy), verdict=session.measure(policy))


def refined_prediction(refined: Refinement, policy: Policy) -> float | None:
    """The corrected prediction of a policy's measured harm; None at widths that were not scored."""
    if not set(policy.bits.values()) <= set(refined.model.tables[0].bits):
        return None
    return refined.model.harm(policy)


@dataclass(frozen=True)
class Figures:
    """What was measured on the evaluation data, after everything was chosen."""

    chosen: Measured
    uniform: tuple[Measured, ...]
    alternatives: tuple[Measured, ...]
    front: Front


def evaluate_all(session: Session, final: Session, choices: list[Choice], refined: Refinement, front: Front) -> Figures:
    """Measure on the evaluation data: the choices, the uniform policies beside them, and the front for the plot.

    The first choice is measured on ``final``, which has its repairs.
    """
    first = choices[0].candidate
    beside = uniform_beside(session, first, refined.model.tables[0])
    rest = [c.candidate.policy for c in choices[1:]]
    total = 1 + len(beside) + len(rest) + len(front)
    with session.steps.step("evaluate", total) as tell:
        shared = [(final, first.policy), *((session, policy) for policy in (*beside, *rest))]
        shared += [(final if c.policy == first.policy else session, c.policy) for c in front]
        for done, (under, policy) in enumerate(shared, start=1):
            under.share(policy, "evaluation")
            tell(done)

        def measured(policy: Policy, predicted: float | None = None, under: Session = session) -> Measured:
            return Measured(policy, costs(session, policy), under.measure(policy, on="evaluation"), predicted)

        chosen = measured(first.policy, refined_prediction(refined, first.policy), final)
        uniform, alternatives = (
            tuple(measured(p, refined_prediction(refined, p)) for p in ps) for ps in (beside, rest)
        )
        points = tuple(
            replace(c, verdict=measured(c.policy, under=final if c.policy == first.policy else session).verdict)
            for c in front
        )
    return Figures(chosen, uniform, alternatives, replace(front, candidates=points))


def uniform_beside(session: Session, chosen: Candidate, table: SensitivityTable) -> list[Policy]:
    """Uniform policies to compare with: W8A8, those that the budget names, and the best one that costs no more."""
    sites = session.sites
    models = costs_for(session.settings.runtime)
    compared = dict.fromkeys([*(cost.name for cost in headline_costs()), session.settings.cost])
    limits = chosen.budgets or tuple(Budget(name, chosen.costs[name]) for name in compared)
    named = [uniform_policy(budget.text.partition("=")[2], sites) for budget in chosen.budgets]
    fitting = uniform_within(sites, table, limits, models)
    best = sorted(fitting, key=lambda policy: session.measure(policy).distance.value)[:1]
    found = [Policy.uniform(sites, 8, 8), *named, *best]
    return list({p: p for p in found if p is not None and p != chosen.policy}.values())


def costs(session: Session, policy: Policy) -> dict[str, float]:
    """Every cost of a policy, for the runtime of the settings."""
    return costs_of(policy, session.sites, costs_for(session.settings.runtime))


def no_smaller(session: Session, table: SensitivityTable, budgets: Iterable[tuple[Budget, ...]]) -> tuple[str, ...]:
    """A sentence for each budget in bytes that makes the stored weights no smaller."""
    settings, sites, models = session.settings, session.sites, costs_for(session.settings.runtime)
    find = partial(search, sites, table, cost=settings.cost, constraints=constraints(settings), costs=models)
    stored, found = stored_cost().name, []
    for limits in budgets:
        mine = tuple(budget for budget in limits if models[budget.metric].unit == "bytes")
        rest = tuple(budget for budget in limits if budget not in mine)
        if not mine:
            continue
        loosest = (Budget(stored, 2 * models[stored].of(FLOAT, sites)),)
        policies = [find(budgets=[entry])[0].policy for entry in (limits, rest or loosest)]
        small, large = (models[stored].of(policy, sites) for policy in policies)
        if small >= large:
            words = ", ".join(budget.text for budget in mine)
            found.append(
                f"The budget {words} does not make the file smaller: with it and without it, "
                f"{text.cost(stored, small)} are stored for the parameters."
            )
    return tuple(found)


def ranked_by(session: Session) -> str:
    """What candidates are ranked by, in words."""
    return f"{session.task.measure(session.task.distance).label} on held-out calibration samples"


def agreement(session: Session, table: SensitivityTable, refined: Refinement) -> Agreement:
    """How well a table's predictions order what was measured on held-out calibration samples."""
    pairs = []
    for number, (policy, _) in enumerate(refined.measured, start=1):
        found = session.measure(policy).distance
        pairs.append(Pair(policy.name or f"policy {number}", table.predict(policy), found.value, found.low, found.high))
    rank: Interval | None = None
    if len({p.predicted for p in pairs}) > 1 and len({p.measured for p in pairs}) > 1 and len(pairs) > 2:
        rank = spearman_interval([p.predicted for p in pairs], [p.measured for p in pairs], seed=session.settings.seed)
    return Agreement(table.method, table.unit, ranked_by(session), tuple(pairs), rank)


def unfitted(refined: Refinement) -> tuple[str, ...]:
    """A sentence where measurements could not correct the predictions."""
    if refined.model.fitted:
        return ()
    harms = [harm for _, harm in refined.measured]
    why = (
        "Quantization changes nothing that was measured"
        if not any(harms)
        else "The measured harm does not grow with the predicted one"
    )
    return (f"{why}, so predictions are shown as they were scored; every choice was made by the measured values.",)


def notes(session: Session, choices: list[Choice], recipe: Recipe | None) -> tuple[str, ...]:
    """Sentences that qualify the whole run."""
    samples = session.samples.holdout.samples
    task = session.task
    primary = task.measure(task.primary).label
    saturated = f"the primary figure ({primary}) says little on data that a network was trained on"
    ranked = (
        f"Candidates were ranked by {task.measure(task.distance).words} on {samples:,} held-out calibration samples"
        f"{'' if task.compares else f'; {saturated}'}. The evaluation data took no part in any choice."
    )
    repaired: tuple[str, ...] = ()
    if recipe is not None and recipe.actions:
        done = "; ".join(str(action) for action in recipe.actions)
        repaired = (f"The chosen policy's figures and file have these repairs: {done}. All other figures have none.",)
    return (choices[0].reason, *repaired, ranked, *session.samples.notes)
