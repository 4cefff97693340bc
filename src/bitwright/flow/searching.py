"""Searches by gradients in a session, on its own data or on a proxy: one policy beside uniform ones, and the facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.cost import costs_for, parse_budgets
from bitwright.data import DataSets
from bitwright.errors import InvalidData
from bitwright.gmpq import Imitation, gmpq, with_head
from bitwright.gmpq.facts import FACTS, Fact, Material
from bitwright.graph.batches import iterate
from bitwright.search import uniform_within
from bitwright.session import Session
from bitwright.values import Policy, SensitivityTable, Verdict
from bitwright.values.json import Value
from bitwright.values.searched import Facts, Finding, Searched


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
    training, holdout, identity = _data(session, proxy)

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

    functions, plain = _functions_and_values(settings)
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


def _data(session: Session, proxy: DataSets | None) -> tuple[Iterable[Any], Iterable[Any], str]:
    """Batches to learn from, batches that are held out, and what names a proxy by its content."""
    if proxy is None:
        return session.batches("training"), session.batches("holdout"), ""
    job = session.settings
    whole = list(proxy.calibration.batches(job.batch_size))
    held = min(math.ceil(job.holdout_samples / job.batch_size), len(whole) // 3)
    if not held:
        raise InvalidData(
            f"{proxy.calibration.name} has {len(proxy.calibration)} samples; a proxy needs at least three batches "
            f"of {job.batch_size}"
        )
    return whole[held:], whole[:held], proxy.calibration.fingerprint()


def _functions_and_values(settings: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What results depend on: the code that runs, and the settings that are values."""
    functions = [gmpq, *(value for value in settings.values() if callable(value))]
    return functions, {key: value for key, value in settings.items() if not callable(value)}


def check_facts(session: Session, budget: str, proxy: DataSets | None = None, seeds: int = 1, **settings: Any) -> Facts:
    """Measure the published facts about GMPQ; every search and every fact is kept in the store.

    Args:
        session: the plain one.
        budget: of the searches.
        proxy: other data to search on, see :func:`search_policy`.
        seeds: searches of each kind; intervals need at least two.
        settings: of :func:`bitwright.gmpq.gmpq`, ``method`` aside.

    Raises:
        InvalidInput: settings that cannot be used.
    """
    training, holdout, identity = _data(session, proxy)
    batches, costs = list(training), costs_for(session.settings.runtime)
    functions, plain = _functions_and_values(settings)
    parts = {"budget": budget, "proxy": identity, "settings": plain, "functions": functions}
    graph = session.graph if proxy is None else with_head(session.graph, batches)

    def search(method: Imitation, share: float, seed: int) -> Searched:
        def compute() -> dict[str, Any]:
            part = batches[: max(1, round(share * len(batches)))]
            task, own = session.task.with_data(part, ()), dict(settings)
            own["epochs"] = round(settings["epochs"] * len(batches) / len(part))
            with session.steps.step(f"search {len(done) + 1}") as tell:
                found = gmpq(graph, task, budget, method, holdout=holdout, seed=seed, progress=tell, costs=costs, **own)
            done.append(seed)
            return found.to_dict()

        how = {**vars(method), "share": share, "seed": seed}
        return Searched.from_dict(session.remember("gmpq search", compute, how=how, **parts))

    done: list[int] = []
    seeds_of = [session.settings.seed + i for i in range(seeds)]
    material = Material(graph, session.task, holdout, settings["widths"], seeds_of, search)
    findings = []
    for fact in FACTS:

        def measured(fact: Fact = fact) -> dict[str, Any]:
            return fact.found(material).to_dict()

        found = session.remember("fact", measured, fact=fact.name, code=fact.measure, seeds=seeds, **parts)
        findings.append(Finding.from_dict(found))
    samples = sum(len(inputs[0]) for inputs, _ in iterate(batches))
    return Facts(tuple(findings), budget, samples, settings["epochs"], seeds)
