"""Several quantized networks, such as those of several strategies of training, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bitwright.arguments import checked
from bitwright.behavior.inputs import Array, Inputs, origins
from bitwright.behavior.study import Progress, Study, Subject
from bitwright.errors import InvalidInput
from bitwright.settings import DEFAULTS
from bitwright.tasks.base import Task
from bitwright.values.behavior import SEVERITIES, Behaviors, Seen, Total


@checked
def behaviors(
    subjects: Mapping[str, Subject],
    batches: Any,
    shifts: Iterable[str] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    others: Mapping[str, Any] | None = None,
    task: Task | str | None = None,
    caught: float = 0.95,
    tolerance: float | None = None,
    runtime: str = DEFAULTS.runtime,
    seed: int = 0,
    progress: Progress | None = None,
) -> Behaviors:
    """Compare several quantized networks, each with the float network of its own graph, on the same inputs.

    They may be policies and files of one network, or networks that were trained in several ways. Shifted inputs are
    made once for all of them, and the float network once where they share it.

    Args:
        subjects: name -> a quantized network; the others are compared with the first.
        batches: as in :func:`~bitwright.behavior.behavior`, like all that follows.
        shifts: likewise.
        severities: likewise.
        others: likewise.
        task: likewise; None: inferred from the first network.
        caught: likewise.
        tolerance: likewise.
        runtime: of all exported files.
        seed: likewise.
        progress: called with (passes done, passes in all).

    Raises:
        InvalidInput: no subject, or as for :func:`~bitwright.behavior.behavior`.
        InvalidData: likewise.
        PolicyMismatch: likewise.
        MissingExtra: likewise.
    """
    if not subjects:
        raise InvalidInput('subjects must hold at least one network, e.g. {"W8A8": bw.Subject(graph, policy)}')
    graph = next(iter(subjects.values())).graph
    study = Study(graph, batches, shifts, severities, others, task, caught, tolerance, runtime, seed)
    return side_by_side(study, subjects, progress)


def side_by_side(study: Study, subjects: Mapping[str, Subject], progress: Progress | None = None) -> Behaviors:
    """The subjects of a study; the others are compared with the first."""
    seen = study.watch(list(subjects.values()), progress)
    found = {name: study.found(one, mine) for (name, one), mine in zip(subjects.items(), seen, strict=True)}
    totals = [_total(mine, seen[0] if place else None, study) for place, mine in enumerate(seen)]
    return Behaviors(found, dict(zip(subjects, totals, strict=True)))


def _total(seen: Sequence[Seen], first: Sequence[Seen] | None, study: Study) -> Total:
    """All shifted inputs of one network together, beside those of the first one."""
    cases, start = study.cases, min(1, len(study.cases) - 1)
    ours, known = seen[start:], None if first is None else first[start:]
    inputs = Inputs(
        origins((case.origin, one.samples) for case, one in zip(cases[start:], ours, strict=True)), study.seed
    )
    differs, figure, floats = (joined(ours, name) for name in ("differs", "ours", "floats"))
    before, other = (None if known is None else joined(known, name) for name in ("differs", "ours"))
    return Total(
        sum(one.samples for one in ours),
        None if differs is None else inputs.share(differs),
        None if differs is None or before is None else inputs.change(differs, before),
        None if floats is None else float(floats.mean()),
        None if figure is None else inputs.share(figure),
        None if figure is None or other is None else inputs.change(figure, other),
    )


def joined(seen: Sequence[Seen], name: str) -> Array | None:
    """What was seen of each sample in all cases, one after the other; None where one of them has none."""
    parts = [getattr(one, name) for one in seen]
    return None if any(part is None for part in parts) else np.concatenate(parts)
