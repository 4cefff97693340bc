"""The page ``docs/extending.md``, made from the packages beside this file.

``python examples/plugins/page.py > docs/extending.md``
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent

INTRODUCTION = """# Extending Bitwright

A sensitivity method, a repair, a cost, a runtime, a data set, a placement, a quantizer or a task of your own is one
object in one file. Once it is registered, you can use it wherever you use Bitwright's own: in the Python functions, on
the command line and in its help, in the search, in the debugging flow, in reports, recipes and the run store. Nothing
in Bitwright has to be changed.

There are two ways to register one:

- in a program, call `register` of the kind's registry, e.g. `bitwright.repair.REPAIRS.register(SHRINK)`;
- in a package, name it in an entry point. Bitwright finds it when a name of its kind is first asked for. A package that
  cannot be used causes one warning, which names it and its entry point; everything else goes on.

You cannot take a name that Bitwright or another package uses. This page shows one complete package of each kind. The
file `pyproject.toml` is much the same for all of them; this is the repair's:

```toml
{project}```

`bitwright.testing` has a contract for each kind: a base class whose tests pytest runs on your object. Bitwright's own
methods, repairs, costs, runtimes, data sets and placements pass the same contracts:

```py
from bitwright.testing import RepairContract
from shrunk_ranges import SHRINK


class TestShrink(RepairContract):
    def make(self):
        return SHRINK
```

{kinds}"""

KINDS = {
    "method": ("methods", "bitwright.sensitivity.METHODS", "bitwright run --method relative-error ..."),
    "repair": ("repairs", "bitwright.repair.REPAIRS", "bitwright repair shrink --set shrink.share=0.1 ..."),
    "cost": ("costs", "bitwright.cost.COSTS", "bitwright run --cost traffic --budget traffic=20% ..."),
    "runtime": ("runtimes", "bitwright.runtimes.RUNTIMES", "bitwright export --runtime onnx-reference ..."),
    "data": ("data", "bitwright.data.DATA", "bitwright run --data csv:table.csv?share=60 ..."),
    "placement": ("placements", "bitwright.graph.pt2e.PLACEMENTS", "bitwright run --quantizer edge-signed ..."),
    "quantizer": (
        "quantizers",
        "bitwright.quantizers.kind.QUANTIZERS",
        "bitwright repair put --set put.quantizer=power-of-two ...",
    ),
    "task": ("tasks", "bitwright.tasks.TASKS", "bitwright run --task ordinal ..."),
}
"""Folder -> end of the entry point's group, registry, and a command that uses what is in it, in the page's order."""


def page() -> str:
    """The whole page."""
    there = {kind: about for kind, about in KINDS.items() if list((HERE / kind).glob("*.py"))}
    rows = ["| kind | entry point | registry | contract |", "|---|---|---|---|"]
    for kind, (group, registry, _) in there.items():
        rows.append(f"| {kind} | `bitwright.{group}` | `{registry}` | `{kind.capitalize()}Contract` |")
    project = (HERE / "repair" / "pyproject.toml").read_text(encoding="utf-8")
    parts = [INTRODUCTION.format(project=project, kinds="\n".join([*rows, ""]))]
    for kind, (_, _, command) in there.items():
        (module,) = (HERE / kind).glob("*.py")
        title, code = "Data" if kind == "data" else f"A {kind}", module.read_text(encoding="utf-8")
        parts.append(f"## {title}\n\n`{module.name}`, used as `{command}`:\n\n```py\n{code}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
