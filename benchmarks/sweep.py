"""Cost of a full one-site sweep against the naive one, which runs the whole network for each site; one thread.

    python benchmarks/sweep.py [--data cifar10:DIR] [--output FILE]

ResNet-20, 512 images, all sites. "Same figures" compares every figure of every row with the naive sweep. The analysis
is W4A8 with each quantizer alone on and each alone off: its cost is given in processor time of one float pass.
With ``--data`` and BITWRIGHT_WEIGHTS the network is the trained one; else weights and images are random, which
costs the same.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import statistics  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.graph.variants import Variant  # noqa: E402
from bitwright.sensitivity import sweep  # noqa: E402
from bitwright.sensitivity.sweep import Tally, expected_of  # noqa: E402
from bitwright.tasks import Classification  # noqa: E402
from bitwright.tasks.columns import FloatSide  # noqa: E402
from bitwright.zoo import resnet20, resnet20_cifar10  # noqa: E402

IMAGES, BATCH, ROUNDS, WIDTH = 512, 64, 3, 4


def naive(graph: Any, batches: list[Any], policies: dict[str, Any]) -> dict[str, Any]:
    """Every policy through the whole network, with the same measures."""
    task = Classification()
    floats, rows = FloatSide(task), {}
    expected = [expected_of(graph, task, (inputs,), targets) for inputs, targets in batches]
    for one in expected:
        floats.add(one)
    for name, policy in policies.items():
        tally = Tally(task)
        with graph.applied(policy), torch.no_grad():
            for one, (inputs, _) in zip(expected, batches, strict=True):
                tally.add(one, graph(inputs))
        rows[name] = tally.row(name, Variant((name,), policy), floats)
    return rows


def main() -> None:
    """Interleave the measurements, so that a change of the machine's speed meets all of them alike."""
    parser = output_argument(__doc__)
    parser.add_argument("--data", metavar="SPEC", help="e.g. cifar10:DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.data:
        model = resnet20_cifar10()
        images, labels = load_data(arguments.data).calibration.read(0, IMAGES)
    else:
        model = resnet20().eval()
        images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, IMAGES, BATCH)]
    graph = bw.calibrate(bw.capture(model, images[:2]), batches)
    alone = {name: bw.Policy({name: WIDTH}) for name in graph.sites.names}
    target = bw.Policy.uniform(graph.sites, weights=4, activations=8)

    def float_pass() -> None:
        with torch.no_grad():
            for inputs, _ in batches:
                graph(inputs)

    work = {
        "float": float_pass,
        "naive": lambda: naive(graph, batches, alone),
        "sweep": lambda: sweep(graph, batches, (WIDTH,)),
        "analysis": lambda: (sweep(graph, batches, target), sweep(graph, batches, (None,), base=target)),
    }
    results: dict[str, Any] = {}
    wall: dict[str, list[float]] = {name: [] for name in work}
    cpu: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, run in work.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            results[name] = run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    same = all(results["sweep"].row(name) == row for name, row in results["naive"].items())

    def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[one], times[other], strict=True)), 3)

    worst = results["sweep"].rows[0]
    figures = {
        "images": IMAGES,
        "sites": len(graph.sites),
        "float_seconds": statistics.median(wall["float"]),
        "sweep_over_naive": ratio(wall, "sweep", "naive"),
        "sweep_over_naive_processor_time": ratio(cpu, "sweep", "naive"),
        "same_figures_as_naive": same,
        "analysis_over_float_processor_time": ratio(cpu, "analysis", "float"),
        "analysis_evaluations": 2 * len(graph.sites),
        "worst_site": {"site": worst.label, "kl": worst.distance, **worst.figures},
    }
    write("sweep", figures, arguments.output)


if __name__ == "__main__":
    main()
