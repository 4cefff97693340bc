"""What post-training repairs give back, and what they cost; one thread.

    python benchmarks/repairs.py --data cifar10:DIR [--repairs plain,gptq,...] [--settings W4A8,...]
        [--output FILE]

The trained ResNet-20 (BITWRIGHT_WEIGHTS), default placement, per-channel weights, ranges by mean squared error from 512
calibration images; measured on the evaluation images, none of which is used for any choice. Repairs run with their
default options, but "gptq-as-published", which takes the weights as they are and corrects biases analytically. Accuracy
with its Wilson interval, KL to float and agreement with float; costs are processor time, in units of one float pass
over the same 512 images in the same run (the median of passes before, between and after).
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import re  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.tasks import reference  # noqa: E402
from bitwright.zoo import resnet20_cifar10  # noqa: E402

IMAGES, BATCH = 512, 128
SETTINGS = "W8A8,W4A8,W4A4,W3A8,W2A8"
REPAIRS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "plain": (),
    "bias": (("bias", {}),),
    "gptq-as-published": (("gptq", {"refit": False, "learn_bias": False}), ("bias", {"method": "analytic"})),
    "gptq": (("gptq", {}),),
    "adaround": (("adaround", {}),),
    "blocks": (("blocks", {}),),
}


def policy_of(graph: Any, setting: str) -> Any:
    """``W4A8`` as a policy."""
    found = re.fullmatch(r"W(\d+)A(\d+)", setting)
    if found is None:
        raise SystemExit(f"--settings must look like W4A8, got '{setting}'")
    return bw.Policy.uniform(graph.sites, int(found[1]), int(found[2]))


def main() -> None:
    """Each repair at each setting, on a graph that is captured anew."""
    parser = output_argument(__doc__)
    parser.add_argument("--data", metavar="SPEC", required=True, help="e.g. cifar10:DIR")
    parser.add_argument("--repairs", default=",".join(REPAIRS), help="some of " + ", ".join(REPAIRS))
    parser.add_argument("--settings", default=SETTINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, data = resnet20_cifar10(), load_data(arguments.data)
    batches = list(data.calibration.batches(BATCH, limit=IMAGES))
    evaluation = list(data.evaluation.batches(BATCH))
    graph = bw.calibrate(bw.capture(model, batches[0][0][:2]), batches)
    floats = reference(graph, evaluation)
    passes: list[float] = []

    def float_pass() -> None:
        start = time.process_time()
        with torch.no_grad():
            for inputs, _ in batches:
                model(inputs)
        passes.append(time.process_time() - start)

    for _ in range(3):
        float_pass()
    rows, spent = [], []
    for setting in arguments.settings.split(","):
        for label in arguments.repairs.split(","):
            graph = bw.calibrate(bw.capture(model, batches[0][0][:2]), batches)
            policy = policy_of(graph, setting)
            seconds = 0.0
            for name, options in REPAIRS[label]:
                seconds += bw.repair(graph, name, batches, policy=policy, **options).processor_seconds
            float_pass()
            verdict = bw.evaluate(graph, policy, evaluation, reference=floats)
            spent.append(seconds)
            rows.append(
                {
                    "setting": setting,
                    "repair": label,
                    "accuracy": verdict.accuracy.to_dict(),
                    "accuracy_change": verdict.accuracy_change.to_dict(),
                    "kl": verdict.kl.to_dict(),
                    "agreement": verdict.agreement.to_dict(),
                }
            )
    unit = statistics.median(passes)
    for row, seconds in zip(rows, spent, strict=True):
        row["cost_in_float_passes"] = seconds / unit
    figures = {
        "calibration_images": IMAGES,
        "evaluation_images": floats.samples,
        "float_accuracy": floats.figure.value.value,
        "float_pass_seconds": {"median": unit, "smallest": min(passes), "largest": max(passes)},
        "rows": rows,
    }
    write("repairs", figures, arguments.output)


if __name__ == "__main__":
    main()
