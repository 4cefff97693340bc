"""Two quantized networks on the same inputs: where do they decide differently from each other?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from bitwright.behavior.cases import Case, compared
from bitwright.behavior.summary import EXAMPLES, examples, row
from bitwright.graph.batches import iterate
from bitwright.graph.graph import Graph
from bitwright.tasks.base import Answer, Task
from bitwright.values import Policy
from bitwright.values.behavior import Apart, Seen

Side = tuple[Graph, Policy]


def apart(
    first: Side,
    second: Side,
    batches: Any,
    task: Task,
    *,
    seed: int = 0,
    remember: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]] = lambda compute: compute(),
) -> Apart:
    """Compare two quantized networks with each other.

    Args:
        first: a calibrated graph and its policy; it is left as it was.
        second: likewise; another graph, or a copy.
        batches: (inputs, targets) for both.
        task: of both.
        seed: of the draws behind intervals.
        remember: keeps what was seen of each sample.

    Raises:
        InvalidData: no data, or inputs that do not fit.
    """

    def answers() -> Iterator[tuple[Answer, Answer]]:
        with first[0].applied(first[1]), second[0].applied(second[1]), torch.no_grad():
            for inputs, targets in iterate(batches, purpose="comparing"):
                one, other = (
                    Answer(task, graph(*_arranged(graph, inputs)), targets, len(inputs[0]))
                    for graph, _ in (first, second)
                )
                yield other, one

    case = Case("", 0, batches, "")
    seen = Seen.from_dict(remember(lambda: compared(answers(), task, None).to_dict()))
    measures = task.measure(task.primary), task.measure(task.distance)
    return Apart(*measures, row(seen, case, seed, second[1], None), examples([seen], [case], each=EXAMPLES))


def _arranged(graph: Graph, inputs: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    return (value.to(graph.device) for value in graph.arranged(inputs))
