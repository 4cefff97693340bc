"""ResNet-20 in every runtime that is installed: decisions, time and size against float, and against one another.

    BITWRIGHT_DATA=DIR BITWRIGHT_WEIGHTS=DIR python benchmarks/runtimes.py [--model resnet56] [--output FILE]

Each runtime gets the network in its own placement, and each placement is simulated as well. For each policy: the number
of test images on which any two of them, float among them, choose another class; and for each runtime the time as a
share of float's in the same runtime and run, one thread, and the bytes of the file beside float's.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import itertools  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from _environment import needs_data_and_weights, output_argument, write  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.errors import MissingExtra  # noqa: E402
from bitwright.graph import Graph, calibrate, capture  # noqa: E402
from bitwright.runtimes import RUNTIMES, ExportResult, export, latency, predict  # noqa: E402
from bitwright.values import FLOAT, Policy  # noqa: E402
from bitwright.zoo import resnet20_cifar10, resnet56_cifar10  # noqa: E402

MODELS = {"resnet20": resnet20_cifar10, "resnet56": resnet56_cifar10}
UNIFORM = ((8, 8), (4, 8))
BATCH = 94


def installed() -> list[str]:
    """The runtimes whose packages are there."""
    found = []
    for name, runtime in RUNTIMES.items():
        try:
            runtime.require()
        except MissingExtra:
            continue
        found.append(name)
    return found


def simulated(graph: Graph, policy: Policy, batches: Any) -> Tensor:
    """The class of each image."""
    with graph.applied(policy), torch.no_grad():
        return torch.cat([graph(inputs).argmax(1) for inputs, _ in batches])


def measure(model: str, seconds: float, folder: Path) -> dict[str, Any]:
    data = load_data(f"cifar10:{Path(os.environ['BITWRIGHT_DATA']) / 'cifar10'}")
    batches = data.evaluation.batches(BATCH)
    targets = torch.cat([targets for _, targets in batches])
    graphs: dict[str, Graph] = {}
    floats: dict[str, ExportResult] = {}
    for name in installed():
        placement = RUNTIMES[name].placement or "edge"
        if placement not in graphs:
            graph = capture(MODELS[model](), data.calibration.read(0, 2)[0], placement)
            graphs[placement] = calibrate(graph, data.calibration.batches(128, limit=512))
        floats[name] = export(graphs[placement], folder / f"{name}{RUNTIMES[name].suffix}", name, FLOAT)
    found: dict[str, Any] = {}
    for widths in UNIFORM:
        decisions: dict[str, Tensor] = {}
        rows: dict[str, Any] = {}
        for placement, graph in graphs.items():
            policy = Policy.uniform(graph.sites, *widths)
            if "float" not in decisions:
                decisions["float"] = simulated(graph, FLOAT, batches)
            decisions[f"simulated, {placement}"] = simulated(graph, policy, batches)
            for name in installed():
                if (RUNTIMES[name].placement or "edge") != placement:
                    continue
                exported = export(graph, folder / f"quantized{RUNTIMES[name].suffix}", name, policy)
                decisions[name] = predict(exported.path, batches, runtime=name).argmax(1)
                times = latency(exported.path, floats[name].path, seconds=seconds, runtime=name)
                rows[name] = {
                    "version": RUNTIMES[name].version(),
                    "bytes": exported.bytes,
                    "float_bytes": exported.float_bytes,
                    "time_ratio": {str(item.batch): item.ratio for item in times},
                    "seconds": {str(item.batch): item.seconds for item in times},
                    "in_float": list(times[0].unfused),
                }
        found[f"W{widths[0]}A{widths[1]}"] = {
            "runtimes": rows,
            "accuracy": {name: float((value == targets).float().mean()) for name, value in decisions.items()},
            "disagreements": {
                f"{one} / {other}": int((decisions[one] != decisions[other]).sum())
                for one, other in itertools.combinations(decisions, 2)
            },
            "samples": len(targets),
        }
    return found


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--model", default="resnet20", choices=sorted(MODELS))
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each time (default 1)")
    arguments = parser.parse_args()
    needs_data_and_weights()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.model, arguments.seconds, Path(folder))
    write("runtimes", rows, arguments.output)


if __name__ == "__main__":
    main()
