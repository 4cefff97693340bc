"""A search by gradients in a session, on its own data or on a proxy, with figures beside uniform policies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.cost import costs_for, parse_budgets
from bitwright.data import DataSets
from bitwright.errors import InvalidData
from bitwright.gmpq import gmpq
from bitwright.search import uniform_within
from bitwright.session import Session
from bitwright.values import Policy, SensitivityTable, Verdict
from bitwright.values.json import Value
from bitwright.values.searched import Searched


@dataclass(frozen=True)
class Search(Value, kind="search by gradients"):
    """What a search found, and how that measures.

    Attributes:
        searched: the policy and the course of the search.
        verdict: of the policy on the evaluation data, before any repair or training.
        uniform: uniform policies within the same budget, likewise, by their names.
    """

    searched: Searched
    verdict: Verdict
    uniform: dict[str, Verdict]


def search_policy(
    session: Session,
    budget: str,
    proxy: DataSets | None = None,
    origin: str = "",
    checkpoint: Path | None = None,
    **settings: Any,
) -> Search:
    """Search a policy by gradients, and measure it beside uniform ones.

    Args:
        session: the plain one. Without a proxy the search learns from all calibration data but what is held out.
        budget: that the policy keeps.
        proxy: other data whose inputs fit the network; its classes get a new last layer.
        origin: what the data is called in the policy's file.
        checkpoint: a file for the state after each epoch.
        settings: of :func:`bitwright.gmpq.gmpq`.

    Raises:
        InvalidInput: settings that cannot be used.
        InvalidData: too little data, or a proxy that does not fit.
        ImpossibleBudget: no policy fits.
    """
    job, costs = session.settings, costs_for(session.settings.runtime)
    limits = parse_budgets(budget, session.sites, costs)
    training: Iterable[Any] = session.batches("training")
    holdout: Iterable[Any] = session.batches("holdout")
    identity = ""
    if proxy is not None:
        whole = list(proxy.calibration.batches(job.batch_size))
        held = min(math.ceil(job.holdout_samples / job.batch_size), len(whole) // 3)
        if not held:
            raise InvalidData(
                f"{proxy.calibration.name} has {len(proxy.calibration)} samples; a proxy needs at least three batches "
                f"of {job.batch_size}"
            )
        training, holdout, identity = whole[held:], whole[:held], proxy.calibration.fingerprint()

    def compute() -> dict[str, Any]:
        task = session.task.with_data(training, ())
        with session.steps.step("search") as tell:
            found = gmpq(
                session.graph,
                task,
                limits,
                holdout=holdout,
                head=proxy is not None,
                checkpoint=checkpoint,
                seed=job.seed,
                origin=origin,
                progress=tell,
                costs=costs,
                **settings,
            )
        return found.to_dict()

    plain = {key: value for key, value in settings.items() if not callable(value)}
    functions = [gmpq, *(value for value in settings.values() if callable(value))]
    parts = {"limits": [(limit.metric, limit.limit) for limit in limits], "proxy": identity, "origin": origin}
    found = Searched.from_dict(session.remember("gmpq", compute, settings=plain, functions=functions, **parts))
    widths = found.widths
    table = SensitivityTable("gmpq", "", session.sites.names, widths, np.zeros((len(session.sites), len(widths))))
    rivals = uniform_within(session.sites, table, limits, costs)
    verdicts: dict[Policy, Verdict] = {}
    with session.steps.step("evaluate", len(rivals) + 1) as tell:
        for policy in (found.policy, *rivals):
            verdicts[policy] = session.measure(policy, on="evaluation")
            tell(len(verdicts))
    return Search(found, verdicts[found.policy], {policy.name: verdicts[policy] for policy in rivals})
