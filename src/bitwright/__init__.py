"""Bitwright: quantization of PyTorch networks, decided and explained.

::

    import bitwright as bw

    graph = bw.capture(model, example_inputs)
    bw.calibrate(graph, batches)
    table = bw.sensitivity(graph, batches)
    front = bw.search(graph, table, budgets=["bops=W4A4"], measure=batches)
    verdict = bw.evaluate(graph, front[0].policy, batches)
    bw.export(graph, "model.onnx", policy=front[0].policy)

Everything below is imported when it is first used, so that ``import bitwright`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from bitwright.version import VERSION

if TYPE_CHECKING:
    from bitwright import tasks as tasks
    from bitwright.behavior import Guarded as Guarded
    from bitwright.behavior import Subject as Subject
    from bitwright.behavior import add_guard as add_guard
    from bitwright.behavior import behavior as behavior
    from bitwright.behavior import behaviors as behaviors
    from bitwright.behavior import retrain as retrain
    from bitwright.debug import debug as debug
    from bitwright.debug import tensor_view as tensor_view
    from bitwright.errors import BitwrightError as BitwrightError
    from bitwright.gmpq import gmpq as gmpq
    from bitwright.graph import Graph as Graph
    from bitwright.graph import calibrate as calibrate
    from bitwright.graph import capture as capture
    from bitwright.graph.pt2e import edge_quantizer as edge_quantizer
    from bitwright.repair import apply_recipe as apply_recipe
    from bitwright.repair import repair as repair
    from bitwright.runtimes import export as export
    from bitwright.runtimes import parity as parity
    from bitwright.search.calibrated import calibrated as calibrated
    from bitwright.sensitivity import sensitivity as sensitivity
    from bitwright.sensitivity import sweep as sweep
    from bitwright.session.search import search as search
    from bitwright.tasks import Task as Task
    from bitwright.tasks import evaluate as evaluate
    from bitwright.train import finetune as finetune
    from bitwright.train import qat as qat
    from bitwright.values import FLOAT as FLOAT
    from bitwright.values import Policy as Policy
    from bitwright.values import SensitivityTable as SensitivityTable
    from bitwright.values import Verdict as Verdict
    from bitwright.values.recipe import Recipe as Recipe

__version__ = VERSION

_ROOMS = {
    "behavior": ("Guarded", "Subject", "add_guard", "behavior", "behaviors", "retrain"),
    "debug": ("debug", "tensor_view"),
    "errors": ("BitwrightError",),
    "gmpq": ("gmpq",),
    "graph": ("Graph", "calibrate", "capture"),
    "graph.pt2e": ("edge_quantizer",),
    "repair": ("apply_recipe", "repair"),
    "runtimes": ("export", "parity"),
    "search.calibrated": ("calibrated",),
    "sensitivity": ("sensitivity", "sweep"),
    "session.search": ("search",),
    "tasks": ("Task", "evaluate"),
    "train": ("finetune", "qat"),
    "values": ("FLOAT", "Policy", "SensitivityTable", "Verdict"),
    "values.recipe": ("Recipe",),
}
_HOMES = {name: f"bitwright.{room}" for room, names in _ROOMS.items() for name in names}

__all__ = sorted([*_HOMES, "tasks"])


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return importlib.import_module("bitwright.tasks")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'bitwright' has no attribute '{name}'")


class _Surface(types.ModuleType):
    """Keeps ``bw.search`` the function where importing the room ``bitwright.search`` would put the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, types.ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Surface


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
