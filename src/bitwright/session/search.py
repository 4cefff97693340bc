"""Search with measurements: what ``bw.search`` is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bitwright.arguments import checked
from bitwright.cost import CostModel, costs_for
from bitwright.errors import InvalidInput
from bitwright.graph import Graph
from bitwright.graph.batches import as_batches
from bitwright.search import Constraints, refine, uniform_within
from bitwright.search import search as predicted_search
from bitwright.search.front import Budgets, HasSites, sites_of
from bitwright.settings import DEFAULTS
from bitwright.tasks import Task, evaluate, reference
from bitwright.tasks.base import Loss
from bitwright.values import Front, Policy, SensitivityTable, Sites, Verdict

Measure = Callable[[Policy], "float | Verdict"]


@checked
def search(
    graph: Sites | HasSites,
    table: SensitivityTable | Sequence[SensitivityTable],
    *,
    measure: Any = None,
    cost: str | CostModel = DEFAULTS.cost,
    budgets: Budgets | None = None,
    constraints: Constraints | None = None,
    points: int = DEFAULTS.points,
    rounds: int = DEFAULTS.rounds,
    evaluations: int | None = DEFAULTS.evaluations,
    minutes: float | None = DEFAULTS.minutes,
    seed: int = DEFAULTS.seed,
    time_limit: float = 60.0,
    costs: Mapping[str, CostModel] | None = None,
    task: Task | str | None = None,
    loss: Loss | None = None,
) -> Front:
    """Find the best policies under budgets, or the whole Pareto front.

    With ``measure``, the candidates are measured, the predictions corrected by what was measured, and the search made
    again (:func:`~bitwright.search.refine`). The uniform policies within each budget are measured, too, and each budget
    gets the policy with the smallest measured distance to float: never a worse one than a uniform policy on these
    samples. Without, the smallest predicted harm decides alone, and nothing says that it is better than a uniform
    policy: the front's ``basis`` is ``"predicted"``.

    Args:
        graph: a captured graph; its sites are enough where no batches are measured.
        table: predicted harm by site and width; or those of several methods, of which the first is searched and all
            take part in the corrected predictions.
        measure: batches of (inputs, targets) to measure candidates on, best held out from calibration; or a function
            from a policy to a verdict, or to a number that is smaller where the policy is better.
        cost: as for :func:`bitwright.search.search`, and so ``budgets``, ``constraints``, ``points``, ``time_limit``
            and ``costs``.
        rounds: most searches after measurements, where neither evaluations nor minutes are given.
        evaluations: most policies to measure; the search then goes on where a better policy may still be.
        minutes: the same by time.
        seed: of what it draws.
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`.
        loss: likewise.

    Returns:
        One candidate for each entry of ``budgets``, in order; or the front by ascending cost. Measured ones have a
        ``verdict``, and predictions in the unit that was measured.

    Raises:
        InvalidInput: as :func:`bitwright.search.search`, and batches without a graph to measure them with.
        ImpossibleBudget: nothing fits; says what the smallest possible is.
    """
    tables = (table,) if isinstance(table, SensitivityTable) else tuple(table)
    front = predicted_search(
        graph,
        tables[0],
        cost=cost,
        budgets=budgets,
        constraints=constraints,
        points=points,
        time_limit=time_limit,
        costs=costs,
    )
    if measure is None:
        return front
    sites, models = sites_of(graph), {**costs_for(), **(costs or {})}
    if not isinstance(cost, str):
        models[cost.name] = cost
    policies = [p for c in front for p in uniform_within(sites, tables[0], c.budgets, models, constraints)]
    return refine(
        front,
        measure if callable(measure) else measuring(graph, measure, task, loss),
        sites,
        tables,
        constraints=constraints,
        costs=models,
        rounds=rounds,
        evaluations=evaluations,
        minutes=minutes,
        seed=seed,
        unit="distance to float",
        time_limit=time_limit,
        also=policies,
    ).front


def measuring(graph: Sites | HasSites, batches: Any, task: Task | str | None, loss: Loss | None) -> Measure:
    """Policy -> its verdict on some batches; the float model runs once."""
    if not isinstance(graph, Graph):
        raise InvalidInput(
            "measure can be batches only with a captured graph, got its sites; give the graph, or a function from a "
            "policy to its verdict"
        )
    data = as_batches(batches)
    expected = reference(graph, data, task, loss=loss)
    return lambda policy: evaluate(graph, policy, data, reference=expected)
