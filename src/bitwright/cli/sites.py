"""``bitwright sites``: where the tensors of a model are quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.cli.options import AsJson, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job
    from bitwright.values import Sites


@takes_job("model", "weights", "trust", "data", "inputs", "quantizer", "returns")
def sites(job: Job, as_json: AsJson = False) -> None:
    """List the tensors of a model that get quantized.

    With their names (policies are keyed by them), shapes and schemes.

    Needs the shape of the inputs, from --data or --inputs. Nothing is written.

    \b
    Examples:
      bitwright sites --model mynet:build --inputs 3x32x32
      bitwright sites --model net.pt2 --json
    """
    from bitwright.cli.load import load_graph

    found = load_graph(job).sites
    if as_json:
        print(found.to_json(), end="")
    else:
        print(as_text(found))


def as_text(found: Sites) -> str:
    """The sites as a table, and their costs."""
    from bitwright.cost import costs_for, human
    from bitwright.values import FLOAT, Policy

    rows = [("site", "kind", "shape", "operation", "scheme", "elements")]
    rows += [
        (s.name, s.kind, "x".join(str(n) for n in s.shape), s.operation, s.scheme.words, f"{s.numel:,}") for s in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += found.coverage.sentences()
    eight = Policy.uniform(found, weights=8, activations=8)
    lines += ["", f"{len(found.weights)} weights, {len(found.activations)} activations, graph {found.graph_hash}"]
    for cost in costs_for().values():
        lines.append(
            f"{cost.name}: float {human(cost.of(FLOAT, found), cost.unit)}, "
            f"W8A8 {human(cost.of(eight, found), cost.unit)}"
        )
    return "\n".join(lines)
