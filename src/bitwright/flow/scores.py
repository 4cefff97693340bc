"""Scoring the sites of a session."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bitwright.graph.batches import cut
from bitwright.sensitivity import METHODS, sensitivities
from bitwright.session import Session
from bitwright.store import content_key
from bitwright.values import FLOAT, SensitivityTable


def made_for(method: str) -> tuple[str, ...]:
    """The method that was asked for, then those that are shown beside it."""
    return tuple(dict.fromkeys([method, *(name for name, other in METHODS.items() if other.beside)]))


def score(session: Session, methods: tuple[str, ...]) -> tuple[SensitivityTable, ...]:
    """Score every site at every width; tables that the store has are not made again.

    Args:
        session: the plain one.
        methods: see :data:`bitwright.sensitivity.METHODS`. FIT takes the place of Margin-FIT where the task has no
            margin; :func:`gave_way` says so.
    """
    batches, bits, store = session.samples.scores, session.settings.bits, session.store
    for method in methods:
        METHODS[method]  # raises for an unknown one
    if not has_margin(session):
        methods = tuple(dict.fromkeys(METHODS[m].instead if METHODS[m].margin else m for m in methods))
    samples = batches.samples
    functions = {method: [METHODS[method].function, METHODS[method].score] for method in methods}
    keys = {
        method: content_key(graph=session.identity, method=method, function=function, bits=bits, samples=samples)
        for method, function in functions.items()
    }
    with session.steps.step("score sites", samples) as tell:
        found = {method: store.get(key) for method, key in keys.items()}
        if None in found.values():
            with store.claimed(content_key(scores=keys)):
                found = {method: store.get(key) for method, key in keys.items()}
                if missing := [method for method in methods if found[method] is None]:
                    made = sensitivities(
                        session.graph, batches, missing, bits=bits, task=session.task, samples=samples, progress=tell
                    )
                    for method, table in zip(missing, made, strict=True):
                        found[method] = table.to_dict()
                        store.put(keys[method], "sensitivity", table.to_dict())
    return tuple(SensitivityTable.from_dict(found[method] or {}) for method in methods)


def gave_way(asked: Iterable[str], tables: Iterable[SensitivityTable]) -> tuple[str, ...]:
    """A sentence for each method that was asked for but that :func:`score` replaced with another."""
    made = [table.method for table in tables]
    lost = [METHODS[name] for name in asked if name not in made]
    return tuple(
        f"{METHODS[method.instead].called} was used instead of {method.called}, which needs a task with one decision "
        "for each input."
        for method in lost
    )


def has_margin(session: Session) -> bool:
    """Whether the task gives a margin for each sample."""
    inputs, _ = cut(session.samples.scores.first, 0, 2)
    graph = session.graph
    with graph.applied(FLOAT), torch.no_grad():
        return session.task.margin(graph(*graph.arranged(inputs))) is not None
