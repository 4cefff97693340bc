"""The page ``docs/extending.md``, made from the packages beside this file.

``python examples/plugins/page.py > docs/extending.md``
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from bitwright.registry import Descriptor

HERE = Path(__file__).parent

INTRODUCTION = """# Extending Bitwright

A sensitivity method, a repair, a cost, a runtime, a data set, a placement, a quantizer, an indicator, a shift, a
strategy of training or a task of your own is one object in one file. Once it is registered, you can use it wherever you
use Bitwright's own: in the Python functions, on the command line, in the search, in the debugging flow, in reports,
recipes and the run store. Nothing in Bitwright has to be changed.

There are two ways to register one:

- in a program, call `register` of the kind's registry, e.g. `bitwright.repair.REPAIRS.register(SHRINK)`;
- in a package, name it in an entry point. Bitwright finds it when a name of its kind is first asked for. A package that
  cannot be used causes one warning, which names it and its entry point; everything else goes on.

You cannot take a name that Bitwright or another package uses. This page shows one complete package of each kind. The
file `pyproject.toml` is much the same for all of them; this is the repair's:

```toml
{project}```

`bitwright.testing` has a contract for each kind: a base class whose tests pytest runs on your object. Bitwright's own
methods, repairs, costs, runtimes, data sets, placements, indicators, shifts and strategies pass the same contracts:

```py
from bitwright.testing import RepairContract
from shrunk_ranges import SHRINK


class TestShrink(RepairContract):
    def make(self):
        return SHRINK
```

{kinds}
Methods, repairs, costs, data sets, placements, quantizers, indicators, shifts and strategies have these fields; those
that a kind has beside them follow its example:

{fields}
"""

KINDS = {
    "method": (
        "methods",
        "bitwright.sensitivity.METHODS",
        "bitwright.sensitivity.method:Method",
        "bitwright run --method relative-error ...",
    ),
    "repair": (
        "repairs",
        "bitwright.repair.REPAIRS",
        "bitwright.repair.descriptor:Repair",
        "bitwright repair shrink --set shrink.share=0.1 ...",
    ),
    "cost": (
        "costs",
        "bitwright.cost.COSTS",
        "bitwright.cost.model:Cost",
        "bitwright run --cost traffic --budget traffic=20% ...",
    ),
    "runtime": (
        "runtimes",
        "bitwright.runtimes.RUNTIMES",
        "bitwright.runtimes.runtime:Runtime",
        "bitwright export --runtime onnx-reference ...",
    ),
    "data": (
        "data",
        "bitwright.data.DATA",
        "bitwright.data.source:Source",
        "bitwright run --data csv:table.csv?share=60 ...",
    ),
    "placement": (
        "placements",
        "bitwright.graph.pt2e.PLACEMENTS",
        "bitwright.graph.pt2e:PlacementKind",
        "bitwright run --quantizer edge-signed ...",
    ),
    "quantizer": (
        "quantizers",
        "bitwright.quantizers.kind.QUANTIZERS",
        "bitwright.quantizers.kind:QuantizerKind",
        "bitwright repair put --set put.quantizer=power-of-two ...",
    ),
    "indicator": (
        "indicators",
        "bitwright.behavior.INDICATORS",
        "bitwright.behavior.indicators:Indicator",
        "bitwright behavior ...",
    ),
    "shift": (
        "shifts",
        "bitwright.behavior.SHIFTS",
        "bitwright.behavior.shift:Shift",
        "bitwright behavior --shifts occlusion ...",
    ),
    "strategy": (
        "strategies",
        "bitwright.train.STRATEGIES",
        "bitwright.train.strategy:Strategy",
        "bitwright qat --strategy noisy?share=0.2 ...",
    ),
    "task": ("tasks", "bitwright.tasks.TASKS", "bitwright.tasks.base:Task", "bitwright run --task ordinal ..."),
}
"""Folder -> end of the entry point's group, registry, class, and a command that uses what is in it, in the page's
order."""


def class_at(place: str) -> type:
    """``"module:Class"``."""
    module, _, name = place.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def fields(described: type) -> dict[str, str]:
    """Field -> what it means, by the class's own docstring."""
    section = inspect.cleandoc(described.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r":\w+:`[~.\w]*?(\w+)`", r"`\1`", " ".join(text.split())) for name, text in found}


def table(described: type) -> str:
    """The fields of a class with their defaults, as rows."""
    defaults: dict[str, Any] = {}
    for base in reversed(described.__mro__):
        defaults.update(vars(base))
    made_by: dict[str, Any] = {}
    if dataclasses.is_dataclass(described):
        made_by = {field.name: field.default_factory for field in dataclasses.fields(described)}
    rows = ["| field | default | meaning |", "|---|---|---|"]
    for name, text in fields(described).items():
        made = made_by.get(name, dataclasses.MISSING)
        default = defaults.get(name, "required" if made is dataclasses.MISSING else made())
        shown = default if default == "required" else "" if callable(default) else f"`{default!r}`"
        rows.append(f"| `{name}` | {shown} | {text.replace('``', '`')} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def page() -> str:
    """The whole page."""
    there = {kind: about for kind, about in KINDS.items() if list((HERE / kind).glob("*.py"))}
    rows = ["| kind | entry point | registry | contract |", "|---|---|---|---|"]
    for kind, (group, registry, _, _) in there.items():
        rows.append(f"| {kind} | `bitwright.{group}` | `{registry}` | `{kind.capitalize()}Contract` |")
    project = (HERE / "repair" / "pyproject.toml").read_text(encoding="utf-8")
    parts = [INTRODUCTION.format(project=project, kinds="\n".join([*rows, ""]), fields=table(Descriptor))]
    for kind, (_, _, place, command) in there.items():
        (module,) = (HERE / kind).glob("*.py")
        title, code = "Data" if kind == "data" else f"A {kind}", module.read_text(encoding="utf-8")
        parts.append(f"## {title}\n\n`{module.name}`, used as `{command}`:\n\n```py\n{code}```\n")
        if rows := table(class_at(place)):
            parts.append(f"The fields of a {kind}:\n\n{rows}\n" if kind != "data" else f"Its fields:\n\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
