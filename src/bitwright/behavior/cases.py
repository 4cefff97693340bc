"""The cases of a study: inputs as they are and under each shift, and what both networks make of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bitwright.behavior.indicators import INDICATORS
from bitwright.behavior.shift import SHIFTS, Scale, Shift, Under
from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import Checked
from bitwright.tasks.base import Answer, Task
from bitwright.tasks.columns import Columns, FloatSide
from bitwright.values.behavior import Seen


@dataclass(frozen=True)
class Case:
    """Inputs under a shift.

    Attributes:
        name: of the shift, or of other data; empty for the data as they are.
        severity: 1 to 5; 0 where there is none.
        batches: (inputs, targets).
        origin: names the set that the inputs were made from, sample by sample.
    """

    name: str
    severity: int
    batches: Iterable[Any]
    origin: str


def cases_of(
    data: Checked, names: Iterable[str] | None, severities: Sequence[int], others: Mapping[str, Any], seed: int
) -> Iterator[Case]:
    """The data as they are, under each shift, and all others; see :func:`~bitwright.behavior.behavior`."""
    scale = Scale.of(data)
    yield Case("", 0, data, "")
    for shift in _shifts(names, scale, bool(others)):
        yield from (Case(shift.name, s, Under(data, shift, s, scale, seed), "") for s in severities)
    taken = set(SHIFTS) if names is None else set(names)
    for name, given in others.items():
        if not name or name in taken:
            raise InvalidInput(f"others: the name {name!r} is empty or that of a shift; choose another one")
        if isinstance(given, Mapping):
            yield from (Case(name, int(s), Checked(each, purpose="behavior"), "published") for s, each in given.items())
        else:
            yield Case(name, 0, Checked(given, purpose="behavior"), name)


def _shifts(names: Iterable[str] | None, scale: Scale, others: bool) -> list[Shift]:
    if names is not None:
        return [SHIFTS[name] for name in dict.fromkeys(names)]
    found = [shift for shift in SHIFTS.values() if scale.suits(shift)]
    if not found and not others:
        raise InvalidData(
            "no shift works on these inputs: the first one must be images (N, 1 or 3, H, W) or words, whole numbers "
            "(N, T); register a shift of your own (bitwright.behavior.SHIFTS), or give other data (others)"
        )
    return found


def compared(answers: Iterable[tuple[Answer, Answer]], task: Task, tolerance: float | None) -> Seen:
    """Two networks on some data.

    Args:
        answers: of the one that is judged, and of the one that it is compared with, batch by batch.
        task: what they are for.
        tolerance: for tasks that decide nothing, the distance from which on outputs disagree.
    """
    ours, pair, floats, more = Columns(), Columns(), FloatSide(task), Columns()
    for answer, expected in answers:
        ours.add(answer.own if answer.targets is not None else {}, answer.count)
        pair.add(task.against(answer, expected), answer.count)
        floats.add(expected)
        more.add(_classes(task, expected.raw, answer.raw), answer.count)
    against, own, other = pair.all(), ours.all(), floats.columns.all()
    distances = task.distances(against, floats.spread)
    differs = None
    if task.agreement in against:
        differs = (against[task.agreement] < 1).astype(float)
    elif tolerance is not None:
        differs = (distances > tolerance).astype(float)
    rest = more.all()
    both = task.primary in own and task.primary in other
    return Seen(
        distances,
        differs,
        own[task.primary] if both else None,
        other[task.primary] if both else None,
        rest.pop("before", None),
        rest.pop("after", None),
        rest.pop("margin of float", None),
        {name.removeprefix("indicator "): value for name, value in rest.items()},
    )


def _classes(task: Task, exact: Any, ours: Any) -> dict[str, Tensor]:
    """Classes, margins and indicators of a batch; empty where there are no classes."""
    before, after = task.probabilities(exact), task.probabilities(ours)
    if before is None or after is None:
        return {}
    values = {f"indicator {name}": one.function(after.double()) for name, one in INDICATORS.items()}
    margins = task.margin(exact)
    known = {} if margins is None else {"margin of float": margins.double()}
    return {"before": before.argmax(1).double(), "after": after.argmax(1).double(), **known, **values}
