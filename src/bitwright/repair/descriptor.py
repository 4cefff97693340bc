"""What a repair is: a function on the graph, described, and which repairs may follow which."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from bitwright.arguments import checked
from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.registry import Descriptor, Registry
from bitwright.repair.report import RepairReport
from bitwright.tasks import Task
from bitwright.values.recipe import Action

Moves = Literal["scales", "weight grids", "activation grids", "rounding"]
Leaves = Literal["learned rounding", "found rounding", "bias correction", "ranges"]
Side = Literal["weights", "activations", "network"]

_BREAKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "scales": ("learned rounding", "found rounding", "bias correction", "ranges"),
        "weight grids": ("learned rounding", "found rounding", "bias correction"),
        "activation grids": ("bias correction",),
        "rounding": ("learned rounding",),
    }
)
"""What a repair moves -> what an earlier one left that is wrong afterwards."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair(Descriptor):
    """A function ``(graph, batches, **options)`` that mends a graph in place and gives a :class:`RepairReport`.

    A function with a parameter ``task`` is told what the outputs mean. Calling the repair checks the order, times the
    function and notes the repair on the graph.

    Attributes:
        lasting: it changes the network itself, not what was fitted to its ranges: calibrating again keeps it.
        moves: what it moves under the repairs that were before it: ``"scales"`` (weights and activations are
            rescaled, so float weights change), ``"weight grids"``, ``"activation grids"``, ``"rounding"``.
        leaves: what it leaves that a later repair can undo: ``"learned rounding"``, ``"found rounding"``,
            ``"bias correction"`` or ``"ranges"``.
        fits: how thoroughly it fits rounding and biases to the grids that are there, 0: not at all. It finds anew all
            that repairs with a smaller number above 0 found.
        mends: the sides that the debugging flow tries it on, ``"weights"`` (step 3), ``"activations"`` (step 4) and
            ``"network"`` (step 8, where nothing else was enough), each with the options that it has there.
        worthwhile: whether the flow has a reason to try it on a graph.
        named: options that name something else that is registered, each with its registry.
    """

    function: Callable[..., RepairReport]
    given: tuple[str, ...] = ("graph", "batches", "task")
    lasting: bool = False
    moves: tuple[Moves, ...] = ()
    leaves: Leaves | None = None
    fits: int = 0
    mends: Mapping[Side, Mapping[str, Any]] = field(default_factory=dict)
    worthwhile: Callable[[Graph], bool] = field(default=lambda graph: True)
    named: Mapping[str, Registry[Any]] = field(default_factory=dict)

    def __call__(
        self, graph: Graph, batches: Any = None, *policy: Any, task: Task | str | None = None, **options: Any
    ) -> RepairReport:
        """Mend a graph; options as those of the function.

        Raises:
            InvalidInput: an earlier repair would be undone, or what the function refuses.
        """
        check_order(graph.repairs, self.name)
        if "task" in inspect.signature(self.function).parameters:
            options["task"] = task
        wall, processor = time.perf_counter(), time.process_time()
        report = self.function(graph, batches, *policy, **options)
        if not isinstance(report, RepairReport):
            raise InvalidInput(f"the repair '{self.name}' must return a RepairReport, got {type(report).__name__}")
        graph.note_repair(self.name, self.lasting)
        seconds, processor_seconds = time.perf_counter() - wall, time.process_time() - processor
        return replace(report, name=self.name, seconds=seconds, processor_seconds=processor_seconds)

    def undoes(self, earlier: Repair) -> str | None:
        """Why this repair must not follow an earlier one; None where it may."""
        moved = [m for m in self.moves if earlier.leaves in _BREAKS[m]]
        if not moved:
            return None
        ends = {
            "learned rounding": f"would undo the rounding that {earlier.name} learned",
            "found rounding": f"would undo the rounding that {earlier.name} found",
            "bias correction": "would make the bias correction, measured on the present weights and grids, wrong",
            "ranges": "would make the ranges, set for the present weights and activations, wrong",
        }
        end = ends[str(earlier.leaves)]
        if moved == ["rounding"]:
            return end
        if "scales" in moved:
            return f"rescales weights and activations, which {end}"
        of = f" of {moved[0].removesuffix(' grids')}s" if len(moved) == 1 else ""
        return f"moves the grids{of}, which {end}"


REPAIRS: Registry[Repair] = Registry("repair", "bitwright.repair")
"""Every repair by name, in an order in which they can follow one another."""


def registered(**about: Any) -> Callable[[Callable[..., RepairReport]], Repair]:
    """Make a function the :class:`Repair` that these attributes describe, and register it."""
    return lambda function: REPAIRS.register(Repair(function=function, **about))


def flow_repairs(side: Side | None = None) -> list[Repair]:
    """What the debugging flow can do to a side, in its order: what is fitted comes last.

    None: to any side, weights first.
    """
    if side is None:
        return list(dict.fromkeys([repair for each in get_args(Side) for repair in flow_repairs(each)]))
    found = [repair for repair in REPAIRS.values() if side in repair.mends]
    return sorted(found, key=lambda repair: (repair.fits, repair.order, repair.name))


def functions_of(actions: Iterable[Action]) -> list[Callable[..., Any]]:
    """What the repairs among some actions compute with, for keys of what they were measured to do.

    The functions of the repairs and of what their options name; unknown names are left out.
    """
    found: list[Callable[..., Any]] = []
    for action in actions:
        known = REPAIRS.get(str(action.options.get("name"))) if action.kind == "repair" else None
        if known is None:
            continue
        found.append(known.function)
        for option, registry in known.named.items():
            other = registry.get(str(action.options.get(option, known.options[option])))
            found += [] if other is None else [other.function]
    return found


def check_order(done: Iterable[str], name: str) -> None:
    """Raise :class:`InvalidInput` if a repair must not follow those that were done before."""
    for earlier in done:
        known = REPAIRS.get(earlier)
        reason = REPAIRS[name].undoes(known) if known is not None else None
        if reason is not None:
            raise InvalidInput(
                f"repair '{name}' cannot follow '{earlier}': it {reason}; "
                f"start from a fresh graph and run '{name}' first"
            )


def check_sequence(names: Sequence[str]) -> None:
    """Raise :class:`InvalidInput` if some repairs must not follow one another in this order."""
    for position, name in enumerate(names):
        check_order(names[:position], name)


@checked
def repair(
    graph: Graph, name: str, batches: Any = None, *, task: Task | str | None = None, **options: Any
) -> RepairReport:
    """Mend a graph in place with one repair; the model that was captured isn't touched.

    ``graph.repairs`` keeps the names of those that were applied. An order in which one would undo another is refused.

    Args:
        graph: from :func:`~bitwright.graph.capture`; for all repairs but those that say otherwise calibrated.
        name: one of :data:`REPAIRS`, e.g. ``"cle"``, ``"gptq"``, ``"adaround"`` or ``"bias"``;
            ``bitwright repair --list`` describes them all.
        batches: calibration data, an iterable of (inputs, targets).
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`, for repairs that compare outputs.
        options: of the repair: ``REPAIRS[name].options``.

    Returns:
        What it needed, changed and cost.

    Raises:
        InvalidInput: an unknown repair or option, or an order that makes no sense.
    """
    REPAIRS[name].check_options("repair", options)
    return REPAIRS[name](graph, batches, task=task, **options)
