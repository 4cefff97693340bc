"""Measuring in the loop: measure the front, correct the prediction with what was measured, search again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitwright.cost import CostModel, costs_for, keeps
from bitwright.errors import InvalidInput
from bitwright.search.constraints import Constraints
from bitwright.search.front import HasSites, search, sites_of
from bitwright.search.problem import Floats
from bitwright.settings import DEFAULTS
from bitwright.values import Candidate, Front, Policy, SensitivityTable, Sites, Verdict

_NOISE = 0.1
"""Relative error that is expected of a prediction with the right factors."""
_PRIOR = 1.0
"""Decades that a factor may be off before any measurement speaks."""


@dataclass(frozen=True)
class Calibration:
    """Factors that bring weights and activations to a common scale, fitted on measured policies.

    Attributes:
        weight: factor of the harm of weight sites.
        activation: factor of the harm of activation sites.
        output: factor from what the corrected table predicts to the measured unit; with a margin model, from its
            distance (:meth:`~bitwright.values.MarginModel.distance`).
        error: root mean square relative error of the corrected prediction on the policies it was fitted on.
        policies: number of policies that it was fitted on.
        fitted: whether the measured harm grows with the predicted one; if not, all factors are 1.
    """

    weight: float = 1.0
    activation: float = 1.0
    output: float = 1.0
    error: float = math.nan
    policies: int = 0
    fitted: bool = True

    def table(self, table: SensitivityTable, sites: Sites) -> SensitivityTable:
        """A table with the harm of weights and of activations multiplied by their factors.

        With a margin model the factors multiply the variances.
        """
        factors = np.array([self.weight if sites[s].kind == "weight" else self.activation for s in table.sites])
        error = table.standard_error
        return replace(
            table,
            method=f"{table.method} (scaled)",
            harm=table.harm * factors[:, None],
            standard_error=None if error is None else error * factors[:, None],
            margin=None
            if table.margin is None
            else replace(table.margin, variances=table.margin.variances * factors[:, None]),
        )

    def predict(self, table: SensitivityTable, policy: Policy) -> float:
        """The measured harm of a policy, predicted with the corrected table; as it was scored where nothing fitted."""
        if table.margin is None or not self.fitted:
            return table.predict(policy) * self.output
        rows, columns = [table.row(s) for s in policy.bits], [table.column(b) for b in policy.bits.values()]
        return float(table.margin.distance(table.margin.variance(rows, columns))) * self.output


@dataclass(frozen=True)
class Refinement:
    """What measuring in the loop found.

    Attributes:
        front: for each candidate of the front that it began with, the measured policy of smallest harm within
            the same budgets; ``predicted`` is in the measured unit.
        measured: every policy that was measured, with its harm, in order.
        calibration: the last fit.
        table: the table with that fit, which the last search used.
        rounds: searches done.
        converged: the last search found no policy that had not been measured.
    """

    front: Front
    measured: tuple[tuple[Policy, float], ...]
    calibration: Calibration
    table: SensitivityTable
    rounds: int
    converged: bool

    def harm(self, policy: Policy) -> float:
        """The measured harm of a policy.

        Raises:
            InvalidInput: it was not measured.
        """
        found = dict(self.measured).get(policy)
        if found is None:
            raise InvalidInput(f"the policy '{policy.name}' was not measured; it is not on the refined front")
        return found


def fit_calibration(
    table: SensitivityTable, sites: Sites, policies: Sequence[Policy], harms: Sequence[float]
) -> Calibration:
    """Fit a factor for weights and one for activations on measured policies.

    Least squares of the relative error, with a prior that both factors are 1 to within a decade, so that
    few or similar policies do not send a factor to zero (METHODS: two scale factors fitted on 4 to 8
    measured policies).

    Args:
        table: the predictions to correct; with a margin model the factors multiply variances.
        sites: of the graph; says which sites are weights.
        policies: measured policies.
        harms: what was measured, smaller is better, 0 for the float policy.

    Returns:
        The factors; all 1, and not ``fitted``, where the measured harm does not grow with the predicted one, where all
        of it is 0, and for fewer than two policies.

    Raises:
        InvalidInput: harms that are not finite, or not one for each policy.
    """
    y = np.array([float(h) for h in harms])
    if len(y) != len(policies):
        raise InvalidInput(f"harms must be one for each of the {len(policies)} policies, got {len(y)}")
    if not np.isfinite(y).all():
        raise InvalidInput(f"measured harm is not finite for policy '{policies[int(np.argmin(np.isfinite(y)))].name}'")
    count = len(y)
    if count < 2 or not y.any():
        return Calibration(policies=count, fitted=False)
    parts = _parts(table, sites, policies)
    weights = 1.0 / (y**2 + (0.05 * float(np.median(np.abs(y)))) ** 2 + 1e-300)
    sigmas = np.zeros(1) if table.margin is None else np.linspace(-2.0, 2.0, 21)
    best = _fit(parts, table, y, weights, np.linspace(-3.0, 3.0, 61), sigmas)
    fine = np.linspace(-0.1, 0.1, 21)
    close = sigmas if table.margin is None else best[1] + 2.0 * fine
    best = _fit(parts, table, y, weights, best[0] + fine, close)
    ratio, sigma, output, loss = best
    if not output > 0.0:
        return Calibration(policies=count, fitted=False)
    up, down = 10.0 ** (sigma + ratio / 2), 10.0 ** (sigma - ratio / 2)
    if table.margin is None:
        up, down, output = up * output, down * output, 1.0
    return Calibration(up, down, output, math.sqrt(loss / count), count)


def _parts(table: SensitivityTable, sites: Sites, policies: Sequence[Policy]) -> tuple[Floats, Floats]:
    """What weights and activations predict: (P,) harms, or (N, P) variances with a margin model."""
    found: dict[str, list[Floats]] = {"weight": [], "activation": []}
    for policy in policies:
        for kind, values in found.items():
            chosen = [(table.row(s), table.column(b)) for s, b in policy.bits.items() if sites[s].kind == kind]
            rows, columns = [r for r, _ in chosen], [c for _, c in chosen]
            if table.margin is None:
                values.append(np.asarray(table.harm[rows, columns].sum()))
            else:
                values.append(table.margin.variance(rows, columns))
    return np.stack(found["weight"], axis=-1), np.stack(found["activation"], axis=-1)


def _fit(
    parts: tuple[Floats, Floats], table: SensitivityTable, y: Floats, weights: Floats, ratios: Floats, sigmas: Floats
) -> tuple[float, float, float, float]:
    """The best (log10 ratio, log10 scale, output factor, sum of squared relative errors) on a grid."""
    best = (0.0, 0.0, 0.0, math.inf)
    least = math.inf
    for ratio in ratios.tolist():
        for sigma in sigmas.tolist():
            total = 10.0 ** (sigma + ratio / 2) * parts[0] + 10.0 ** (sigma - ratio / 2) * parts[1]
            if table.margin is None:
                g = total
            else:
                g = table.margin.distance(total)
            size = float(weights @ g**2)
            output = float(weights @ (g * y)) / size if size > 0.0 else 0.0
            loss = float(weights @ (output * g - y) ** 2)
            penalised = loss / _NOISE**2 + (ratio / _PRIOR) ** 2 + (sigma / _PRIOR) ** 2
            if penalised < least:
                least, best = penalised, (ratio, sigma, output, loss)
    return best


def refine(
    front: Front,
    measure: Callable[[Policy], float | Verdict],
    graph: Sites | HasSites,
    table: SensitivityTable,
    *,
    constraints: Constraints | None = None,
    costs: Mapping[str, CostModel] | None = None,
    rounds: int = DEFAULTS.rounds,
    unit: str = "measured harm",
    time_limit: float = 60.0,
    also: Iterable[Policy] = (),
) -> Refinement:
    """Measure the candidates of a front, correct the table, and search again until the front no longer moves.

    The first round also measures two halves of the candidate in the middle, its weights alone and its
    activations alone, which tell the two scales apart.

    Args:
        front: from :func:`bitwright.search.search`, with the budgets that are to be searched again.
        measure: policy -> harm (smaller is better, 0 for float), or a verdict, whose distance to float counts.
        graph: a captured graph, or its sites.
        table: that the front came from.
        constraints: those of the first search.
        costs: further cost models, as for :func:`bitwright.search.search`.
        rounds: most searches.
        unit: of the measured harm, for the front.
        time_limit: seconds for each candidate of a search.
        also: further policies to measure, e.g. uniform ones; a budget gets one of them where it is the best.

    Raises:
        InvalidInput: an empty front, candidates without budgets, or harms that are not finite.
    """
    if len(front) == 0 or any(not c.budgets for c in front):
        raise InvalidInput("refine needs a front from search: at least one candidate, each with its budgets")
    if rounds < 1:
        raise InvalidInput(f"rounds must be at least 1, got {rounds}")
    sites = sites_of(graph)
    log = _Log(measure)
    pool = {candidate.policy: candidate for candidate in front}
    for candidate in front:
        log.measure(candidate.policy)
    middle = front[len(front) // 2].policy
    for kind in ("weight", "activation"):
        half = {s: b for s, b in middle.bits.items() if sites[s].kind == kind}
        if half:
            log.measure(Policy(half, middle.graph_hash, f"{middle.name}, {kind}s alone"))
    for policy in also:
        log.measure(policy)
        pool.setdefault(policy, Candidate(policy, table.predict(policy), {}))
    done, converged = 0, False
    while done < rounds and not converged:
        calibration = fit_calibration(table, sites, list(log.harms), list(log.harms.values()))
        scaled = calibration.table(table, sites)
        current = search(
            sites,
            scaled,
            cost=front.cost,
            budgets=[c.budgets for c in front],
            constraints=constraints,
            time_limit=time_limit,
            costs=costs,
        )
        done += 1
        converged = not sum([log.measure(c.policy) for c in current])
        pool.update({c.policy: c for c in current if c.policy not in pool})
    models = {**costs_for(), **(costs or {})}
    best = []
    for entry in current:
        fitting = [c for c in pool.values() if keeps(c.policy, entry.budgets, sites, models)]
        winner = min(fitting, key=lambda c: log.harms[c.policy])
        best.append(_candidate(winner, entry, scaled, calibration, log, models, sites))
    method = f"{table.method}, refined on {len(log.harms)} measurements"
    refined = Front(tuple(best), method, unit, front.cost, "measured")
    return Refinement(refined, tuple(log.harms.items()), calibration, scaled, done, converged)


def _candidate(
    winner: Candidate,
    entry: Candidate,
    table: SensitivityTable,
    calibration: Calibration,
    log: _Log,
    models: Mapping[str, CostModel],
    sites: Sites,
) -> Candidate:
    """The measured policy as a candidate for the budgets of an entry of the search."""
    values = {m: models[m].of(winner.policy, sites) for m in entry.costs}
    return Candidate(
        Policy(winner.policy.bits, winner.policy.graph_hash, entry.policy.name),
        calibration.predict(table, winner.policy),
        values,
        entry.budgets,
        *entry.proof_for(winner.policy, table.predict(winner.policy)),
        {b.metric: min(1.0, values[b.metric] / b.limit) for b in entry.budgets},
        log.verdicts.get(winner.policy),
    )


class _Log:
    """Measures each policy once."""

    def __init__(self, measure: Callable[[Policy], float | Verdict]) -> None:
        self._measure = measure
        self.harms: dict[Policy, float] = {}
        self.verdicts: dict[Policy, Verdict] = {}

    def measure(self, policy: Policy) -> bool:
        """Measure a policy, unless that was done; whether it was new."""
        if policy in self.harms:
            return False
        result = self._measure(policy)
        if isinstance(result, Verdict):
            self.verdicts[policy] = result
            result = result.distance.value
        try:
            self.harms[policy] = float(result)
        except (TypeError, ValueError):
            raise InvalidInput(
                f"measure must give a number or a verdict for each policy, got {type(result).__name__} for "
                f"'{policy.name}'"
            ) from None
        if not math.isfinite(result):
            raise InvalidInput(f"measure gave {result} for the policy '{policy.name}'; it must give a finite number")
        return True
