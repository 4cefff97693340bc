"""An exported CIFAR ResNet in ONNX Runtime: predictions against the simulation, size and time against float.

    BITWRIGHT_DATA=DIR BITWRIGHT_WEIGHTS=DIR python benchmarks/export_parity.py [--model resnet56]
        [--output FILE]

For each policy (uniform, the one that search chooses for the BOPs of W4A4, and mixed with 2 to 8 bits drawn for each
site): the share of test images with the same top-1
with the runtime's graph optimisations off and on, the largest logit differences, the file's size as a share of float's,
and for batch 1 and 32 the time as a share of float's in the same run, one thread.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import random  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from _environment import needs_data_and_weights, output_argument, write  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.graph import Graph, calibrate, capture  # noqa: E402
from bitwright.runtimes import export, latency, parity  # noqa: E402
from bitwright.search import search  # noqa: E402
from bitwright.sensitivity import sensitivity  # noqa: E402
from bitwright.values import FLOAT, Policy  # noqa: E402
from bitwright.zoo import resnet20_cifar10, resnet56_cifar10  # noqa: E402

MODELS = {"resnet20": resnet20_cifar10, "resnet56": resnet56_cifar10}

UNIFORM = ((8, 8), (4, 8), (4, 4), (3, 8), (2, 8), (16, 16), (None, 8), (4, None))


def policies(graph: Graph, scored: Iterable[Any], mixed: int, seed: int) -> list[Policy]:
    drawn, sites = random.Random(seed), graph.sites
    found = [Policy.uniform(sites, *widths) for widths in UNIFORM]
    table = sensitivity(graph, scored, "fit", bits=(2, 3, 4, 5, 6, 8))
    found.append(search(sites, table, budgets=["bops=W4A4"])[0].policy.replaced({}, "searched, bops=W4A4"))
    for i in range(mixed):
        found.append(Policy({site.name: drawn.randint(2, 8) for site in sites}, name=f"mixed {i}"))
    return found


def measure(model: str, seconds: float, mixed: int, seed: int, folder: Path) -> dict[str, Any]:
    data = load_data(f"cifar10:{Path(os.environ['BITWRIGHT_DATA']) / 'cifar10'}")
    graph = capture(MODELS[model](), data.calibration.read(0, 2)[0])
    calibrate(graph, data.calibration.batches(128, limit=512))
    plain = export(graph, folder / "float.onnx", policy=FLOAT)
    rows = {}
    for policy in policies(graph, data.calibration.batches(64, limit=256), mixed, seed):
        result = export(graph, folder / "quantized.onnx", policy=policy)
        compared = parity(graph, result.path, data.evaluation.batches(94))
        times = latency(result.path, plain.path, seconds=seconds)
        rows[policy.name] = {
            "samples": compared.samples,
            "same_top1_off": compared.exact_agreement,
            "same_top1_on": compared.fused_agreement,
            "largest_logit_difference_off": compared.exact_difference,
            "largest_logit_difference_on": compared.fused_difference,
            "first_to_differ": compared.fused_drift.site if compared.fused_drift else None,
            "accuracy": compared.figure.value.value,
            "size_ratio": result.bytes / result.float_bytes,
            "time_ratio": {str(item.batch): item.ratio for item in times},
            "float_operations": len(times[0].unfused),
        }
    return rows


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--model", default="resnet20", choices=sorted(MODELS))
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each time (default 1)")
    parser.add_argument("--mixed", type=int, default=6, help="mixed policies (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="of the mixed policies (default 0)")
    arguments = parser.parse_args()
    needs_data_and_weights()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.model, arguments.seconds, arguments.mixed, arguments.seed, Path(folder))
    write("export_parity", rows, arguments.output)


if __name__ == "__main__":
    main()
