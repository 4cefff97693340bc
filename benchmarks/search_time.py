"""Search time against the number of sites, on made-up networks: 6 widths, 50 budgets, one thread.

For each size: seconds for 50 BOPs budgets with a table whose harms add up, with a margin model, and for 5 budgets on
BOPs and size at once; how many results are proven optimal; whether scores multiplied by 1e-9 give the same
policies; and, as a ratio within this run, the time of one budget against the same problem given to HiGHS whole.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from _environment import output_argument, write  # noqa: E402
from bitwright.cost import Bops, costs_for  # noqa: E402
from bitwright.search import Constraints, search  # noqa: E402
from bitwright.search.milp import solve_milp  # noqa: E402
from bitwright.search.objective import make_objective  # noqa: E402
from bitwright.search.problem import build_problem  # noqa: E402
from bitwright.values import Front, MarginModel, Operation, Policy, Scheme, SensitivityTable, Site, Sites  # noqa: E402

BITS = (2, 3, 4, 5, 6, 8)
BUDGETS = 50
SAMPLES = 512


def network(count: int, seed: int, shared: float = 0.0) -> tuple[Sites, SensitivityTable]:
    """About ``count`` sites: operations with a weight each, and an input that a share of them have in common."""
    rng = np.random.default_rng(seed)
    sites: list[Site] = []
    operations: list[Operation] = []
    while len(sites) + 2 <= count:
        i = len(operations)
        if i == 0 or rng.random() >= shared:
            left = f"layer{i}.input"
            sites.append(Site(left, "activation", (1, int(rng.integers(100, 10_000)))))
        shape = (int(rng.integers(8, 512)), int(rng.integers(8, 2000)))
        weight = Site(f"layer{i}.weight", "weight", shape, Scheme(symmetric=True, granularity="channel", axis=0))
        sites.append(weight)
        operations.append(Operation(f"layer{i}", "conv2d", int(10 ** rng.uniform(5, 8)), left, weight.name))
    names = tuple(site.name for site in sites)
    size = 10 ** rng.normal(-1, 1, (len(names), 1)) * 4.0 ** -np.array(BITS)
    harm = size * rng.uniform(0.5, 2.0, (len(names), len(BITS)))
    return Sites(tuple(sites), tuple(operations), "made-up"), SensitivityTable("fit", "loss", names, BITS, harm)


def with_margins(table: SensitivityTable, seed: int) -> SensitivityTable:
    """The same table behind a margin model."""
    rng = np.random.default_rng(seed)
    shares = rng.exponential(1.0, (SAMPLES, len(table.sites)))
    return replace(table, margin=MarginModel(np.abs(rng.normal(3.0, 2.0, SAMPLES)), table.harm, shares))


def budgets(sites: Sites) -> list[str]:
    """50 BOPs budgets from W2A2 to W8A8, evenly spaced in the logarithm."""
    whole = Bops().of(Policy.uniform(sites, 8, 8), sites)
    return [f"bops={limit:.0f}" for limit in np.geomspace(whole / 15.9, whole, BUDGETS)]


def timed(work: Callable[[], Front]) -> tuple[Front, dict[str, float]]:
    """A front, and how long it took: on the clock, and of the processor, which other programs do not disturb."""
    start, busy = time.perf_counter(), time.process_time()
    front = work()
    return front, {
        "seconds": round(time.perf_counter() - start, 3),
        "processor_seconds": round(time.process_time() - busy, 3),
        "proven_optimal": sum(c.optimal for c in front),
        "candidates": len(front),
    }


def measure(count: int, shared: float, seed: int = 0) -> dict[str, Any]:
    sites, table = network(count, seed, shared)
    asked = budgets(sites)
    joint = [f"bops=W{w}A{a}, size=W{s}A8" for w, a, s in ((3, 3, 4), (4, 4, 4), (4, 4, 3), (5, 4, 5), (6, 6, 6))]
    front, additive = timed(lambda: search(sites, table, budgets=asked))
    small = search(sites, replace(table, harm=table.harm * 1e-9), budgets=asked)
    _, margins = timed(lambda: search(sites, with_margins(table, seed), budgets=asked))
    _, both = timed(lambda: search(sites, table, budgets=joint))

    problem = build_problem(sites, table, [Bops()], Constraints())
    objective = make_objective(problem.harms(table), problem.preference)
    middle = BUDGETS // 2
    start = time.process_time()
    whole = solve_milp(problem, objective, np.array([front[middle].budgets[0].limit]) - problem.constant, 120.0)
    program = time.process_time() - start
    start = time.process_time()
    (one,) = search(sites, table, budgets=[asked[middle]])
    alone = time.process_time() - start
    policy = problem.policy([ls[i] for ls, i in zip(problem.levels, whole.picks, strict=True)], sites)
    return {
        "sites": len(sites),
        "operations": len(sites.operations),
        "widths": len(BITS),
        "additive": {
            **additive,
            "largest_gap": max(c.gap for c in front),
            "smallest_share_of_budget_used": round(min(c.used["bops"] for c in front), 6),
            "same_policies_with_scores_times_1e-9": sum(
                a.policy.bits == b.policy.bits for a, b in zip(front, small, strict=True)
            ),
        },
        "margin_model": margins,
        "two_budgets_at_once": both,
        "one_budget_over_integer_program": {
            "processor_time_ratio": round(alone / program, 4),
            "harm_ratio": one.predicted / table.predict(policy),
        },
    }


def main() -> None:
    arguments = output_argument(__doc__).parse_args()
    costs_for()  # which runtime stores what is imported with it, and not timed
    cases = [(50, 0.0), (100, 0.0), (200, 0.0), (200, 0.3), (400, 0.0)]
    write("search_time", {"cases": [measure(count, shared) for count, shared in cases]}, arguments.output)


if __name__ == "__main__":
    main()
