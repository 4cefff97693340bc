"""Cost of simulation, FIT and Margin-FIT, as multiples of the float forward pass over the same images, one thread.

    python benchmarks/gradients.py [--model bitwright.zoo:resnet20] [--output FILE]

Also against N single-sample backward passes, the plain way to per-sample gradients (timed on 64 images and scaled).
Weights and images are random: the arithmetic costs the same.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import importlib  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from bitwright.sensitivity import sensitivities  # noqa: E402

IMAGES, BATCH, ROUNDS = 256, 64, 5
BITS = (2, 3, 4, 6, 8)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def single_sample_seconds(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds for all images, one backward pass each, from the first 64."""

    def loop() -> None:
        for i in range(BATCH):
            loss = torch.nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
            torch.autograd.grad(loss, list(model.parameters()))

    return seconds(loop) * IMAGES / BATCH


def main() -> None:
    """Interleave all measurements, so that a change of the machine's speed meets all of them alike."""
    parser = output_argument(__doc__)
    parser.add_argument("--model", default="bitwright.zoo:resnet20")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, _, factory = arguments.model.partition(":")
    model = getattr(importlib.import_module(module), factory)().eval()
    images = torch.randn(IMAGES, 3, arguments.size, arguments.size)
    with torch.no_grad():
        labels = torch.randint(model(images[:2]).shape[1], (IMAGES,))
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, IMAGES, BATCH)]
    graph = bw.calibrate(bw.capture(model, images[:2]), batches)
    policy = bw.Policy.uniform(graph.sites, 4, 8)

    def forward(run: Callable[[torch.Tensor], Any]) -> Callable[[], None]:
        def work() -> None:
            with torch.no_grad():
                for inputs, _ in batches:
                    run(inputs)

        return work

    def simulate() -> None:
        with graph.applied(policy):
            forward(graph)()

    work: dict[str, Callable[[], Any]] = {
        "float_forward": forward(model),
        "simulated_forward": simulate,
        "fit": lambda: sensitivities(graph, batches, ("fit",), BITS),
        "margin_fit": lambda: sensitivities(graph, batches, ("margin-fit",), BITS),
        "fit_and_margin_fit": lambda: sensitivities(graph, batches, ("fit", "margin-fit"), BITS),
        "fit_measured_noise": lambda: sensitivities(graph, batches, ("fit",), BITS, noise="measured"),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for name in work:
        work[name]()
    for _ in range(ROUNDS):
        for name, run in work.items():
            times[name].append(seconds(run))
    singles = single_sample_seconds(model, images, labels)
    figures: dict[str, Any] = {"images": IMAGES, "sites": len(graph.sites), "widths": len(BITS)}
    figures["float_forward_seconds"] = statistics.median(times["float_forward"])
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times["float_forward"], strict=True)]
        figures[f"{name}_over_float"] = round(statistics.median(ratios), 3)
    figures["single_sample_backward_over_fit"] = round(singles / statistics.median(times["fit"]), 2)
    write("gradients", figures, arguments.output)


if __name__ == "__main__":
    main()
