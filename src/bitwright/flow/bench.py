"""The bench: the calibrated graph, the samples that choices are made on, and the store; every step works on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

import bitwright
from bitwright.data import DataSets
from bitwright.data.inputs import as_tuple, select
from bitwright.flow.meter import Meter, meters
from bitwright.flow.samples import Drawn, count, draw
from bitwright.flow.steps import Steps
from bitwright.graph import Graph, calibrate, capture
from bitwright.sensitivity import METHODS, sensitivities
from bitwright.settings import Settings
from bitwright.store import RunStore, content_key
from bitwright.tasks import Task, task_for
from bitwright.values import FLOAT, SensitivityTable
from bitwright.values.recipe import Recipe


@dataclass(frozen=True)
class Bench:
    """What a run works on.

    Attributes:
        graph: captured and calibrated.
        data: calibration and evaluation data.
        drawn: the samples of the calibration data that choices are made on.
        task: what the outputs mean.
        settings: of the run.
        store: where everything that is measured is kept.
        identity: names the graph with its ranges by content: model, placement, calibration data and settings.
        holdout: measures policies on held-out calibration samples; candidates are ranked by it.
        evaluation: measures policies on the evaluation data; nothing is chosen by it.
        recipe: that was applied to the graph, with what was fitted; None for the plain bench.
    """

    graph: Graph
    data: DataSets
    drawn: Drawn
    task: Task
    settings: Settings
    store: RunStore
    identity: str
    holdout: Meter
    evaluation: Meter
    recipe: Recipe | None = None


def prepare(model: Any, data: DataSets, settings: Settings, store: RunStore, steps: Steps) -> Bench:
    """Capture the model, draw the samples, set the ranges.

    Args:
        model: in evaluation mode, or an exported program.
        data: calibration and evaluation data.
        settings: of the run.
        store: where everything that is measured is kept.
        steps: told how far it is.

    Raises:
        InvalidInput: a model that cannot be used, e.g. in training mode, or with NaN in its weights.
        InvalidData: data that cannot be used, or too little of it.
        CaptureError: torch.export stopped.
    """
    with steps.step("draw samples"):
        drawn = draw(data.calibration, settings)
    with steps.step("capture"):
        graph = capture(model, select(drawn.calibration[0][0], slice(0, 2)), quantizer=settings.quantizer)
    task = task_for(graph, drawn.scores, settings.task, settings.loss, settings.metric)
    batches = drawn.calibration
    with steps.step("calibrate", count(batches)):
        calibrate(graph, batches, ranges=settings.ranges, seed=settings.seed)
    fingerprint = data.calibration.fingerprint()
    draws = {"data": fingerprint, "seed": settings.seed, "calibration": count(batches), "holdout": count(drawn.holdout)}
    identity = content_key(
        bitwright=bitwright.__version__,
        sites=graph.sites.to_dict(),
        ranges=settings.ranges,
        draws=draws,
        batch_size=settings.batch_size,
        device=str(graph.device),
        task=task.identity,
    )
    held_out, evaluated = meters(graph, drawn, data, task, settings, store, identity)
    return Bench(graph, data, drawn, task, settings, store, identity, held_out, evaluated)


def score(bench: Bench, methods: tuple[str, ...], steps: Steps) -> tuple[SensitivityTable, ...]:
    """Score every site at every width; tables that the store has are not made again.

    Args:
        bench: from :func:`prepare`.
        methods: see :data:`bitwright.sensitivity.METHODS`. FIT takes the place of Margin-FIT where the task
            has no margin; :func:`gave_way` says so.
        steps: told how far it is.

    Raises:
        InvalidInput: an unknown method.
        InvalidData: targets outside the classes, or gradients that are not finite.
    """
    samples = count(bench.drawn.scores)
    for method in methods:
        METHODS[method]  # raises for an unknown one
    if not has_margin(bench):
        methods = tuple(dict.fromkeys(METHODS[m].instead if METHODS[m].margin else m for m in methods))
    keys = {
        method: content_key(
            graph=bench.identity,
            method=method,
            function=METHODS[method].function,
            bits=bench.settings.bits,
            samples=samples,
        )
        for method in methods
    }
    with steps.step("score sites", samples) as tell:
        found = {method: bench.store.get(key) for method, key in keys.items()}
        missing = [method for method in methods if found.get(method) is None]
        if missing:
            made = sensitivities(
                bench.graph,
                bench.drawn.scores,
                missing,
                bits=bench.settings.bits,
                task=bench.task,
                samples=samples,
                progress=tell,
            )
            for method, table in zip(missing, made, strict=True):
                found[method] = table.to_dict()
                bench.store.put(keys[method], "sensitivity", table.to_dict())
    return tuple(SensitivityTable.from_dict(found[method] or {}) for method in methods)


def gave_way(asked: Iterable[str], tables: Iterable[SensitivityTable]) -> tuple[str, ...]:
    """A sentence for each method that was asked for and in whose place :func:`score` made another."""
    made = [table.method for table in tables]
    lost = [METHODS[name] for name in asked if name not in made]
    return tuple(
        f"{METHODS[method.instead].called} took the place of {method.called}, which needs a task with one decision "
        "for each input."
        for method in lost
    )


def has_margin(bench: Bench) -> bool:
    """Whether the task gives a margin for each sample."""
    inputs = as_tuple(select(bench.drawn.scores[0][0], slice(0, 2)))
    with bench.graph.applied(FLOAT), torch.no_grad():
        return bench.task.margin(bench.graph(*(value.to(bench.graph.device) for value in inputs))) is not None
