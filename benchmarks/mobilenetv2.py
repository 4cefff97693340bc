"""MobileNetV2 on CIFAR-10: what post-training repairs give back where weights are hard to quantize; one thread.

    python benchmarks/mobilenetv2.py --weights FILE --data cifar10:DIR [--rows "NAME;..."] [--flow] [--output FILE]

The network that benchmarks/train_mobilenetv2.py trains. 512 training images for calibration; none of the test images
is used for any choice. Rows that begin with "tensor" have one step for each weight tensor, the others one for each
channel. Every repair runs with its default options. Accuracy with its Wilson interval, its change with a paired
bootstrap interval, KL to float and agreement with float; costs are processor time, in units of one float pass over the
same 512 images in the same run (the median of passes before, between and after). --flow adds what the debugging flow
says and reaches for W8A8 with one step for each weight tensor and a target of half a point: for the network as it is,
and for one with the same function in which some channels were made 30 times as small.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import copy  # noqa: E402
import re  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

import bitwright as bw  # noqa: E402
from _cifar10_jpeg import images, in_batches  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.debug import debug  # noqa: E402
from bitwright.tasks import Classification, reference  # noqa: E402
from bitwright.zoo.mobilenet import mobilenet_v2  # noqa: E402

CALIBRATION, BATCH, TARGET, FACTOR = 512, 128, 0.5, 30.0
ROWS: dict[str, tuple[str, ...]] = {
    "tensor W8A8": (),
    "tensor W8A8 cle": ("cle",),
    "tensor W8A8 cle+bias": ("cle", "bias"),
    "channel W4A8": (),
    "channel W4A8 adaround": ("adaround",),
    "channel W4A8 bias": ("bias",),
    "channel W4A8 gptq": ("gptq",),
    "channel W4A8 blocks": ("blocks",),
    "tensor W8A8 bias": ("bias",),
    "tensor W8A8 cle, relu6 cap": ("cle relu6=cap",),
    "tensor W8A8 cle, relu6 replace": ("cle relu6=replace",),
    "channel W8A8": (),
    "channel W4A4": (),
    "channel W4A4 bias": ("bias",),
    "channel W4A4 gptq": ("gptq",),
    "channel W3A8 gptq": ("gptq",),
    "channel W3A8 adaround": ("adaround",),
    "channel W4A4 adaround": ("adaround",),
}
"""Granularity and widths -> repairs, in their order, with the one option that differs from the default."""


def captured(model: Any, granularity: str, batches: Any) -> Any:
    """A calibrated graph."""
    example = batches[0][0][:2]
    return bw.calibrate(bw.capture(model, example, quantizer=bw.edge_quantizer(granularity)), batches)


def policy_of(graph: Any, setting: str) -> Any:
    """``W4A8`` as a policy."""
    found = re.fullmatch(r"W(\d+)A(\d+)", setting)
    if found is None:
        raise SystemExit(f"a row must look like 'channel W4A8 bias', got '{setting}'")
    return bw.Policy.uniform(graph.sites, int(found[1]), int(found[2]))


def unbalanced(model: Any, batches: Any) -> Any:
    """In each block three channels of ten that the calibration data never takes to 6 are made small in front of the
    projection, whose weights make up for it."""
    broken, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    highest: dict[nn.Module, torch.Tensor] = {}

    def look(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        seen = output.amax((0, 2, 3))
        highest[module] = torch.maximum(seen, highest.get(module, seen))

    norms = [block.depthwise.bn for block in broken.blocks]
    hooks = [norm.register_forward_hook(look) for norm in norms]
    with torch.no_grad():
        for inputs, _ in batches:
            broken(inputs)
        for hook in hooks:
            hook.remove()
        for block, norm in zip(broken.blocks, norms, strict=True):
            chosen = (highest[norm] <= 6) & (torch.rand(norm.num_features, generator=generator) < 0.3)
            norm.weight[chosen] /= FACTOR
            norm.bias[chosen] /= FACTOR
            block.project.conv.weight[:, chosen] *= FACTOR
    return broken


def flow(model: Any, batches: Any, evaluation: Any) -> dict[str, Any]:
    """The debugging flow at W8A8, one step for each weight tensor."""
    graph = bw.capture(model, batches[0][0][:2], quantizer=bw.edge_quantizer("tensor"))
    found = debug(graph, Classification(batches, evaluation), TARGET, model=model)
    after = found.verdict
    return {
        "target_points": TARGET,
        "outcome": found.outcome,
        "conclusions": [f"{step.number}. {step.conclusion}" for step in found.steps],
        "actions": [str(action) for action in found.recipe.actions],
        "verdict": None if after is None else figures_of(after),
        "float_passes": round(sum(step.passes for step in found.steps), 1),
    }


def figures_of(verdict: Any) -> dict[str, Any]:
    """What every row has."""
    names = ("accuracy", "accuracy_change", "kl", "agreement")
    return {name: getattr(verdict, name).to_dict() for name in names}


def main() -> None:
    """Each row on a graph that is captured anew, measured on each collection of test images."""
    parser = output_argument(__doc__)
    parser.add_argument("--weights", metavar="FILE", required=True, help="from train_mobilenetv2.py")
    parser.add_argument("--width", type=float, default=0.35, help="width_mult of the trained network")
    parser.add_argument("--data", metavar="SPEC", required=True, help="e.g. cifar10:DIR")
    parser.add_argument("--rows", default=";".join(ROWS), help="some of: " + "; ".join(ROWS))
    parser.add_argument("--flow", action="store_true", help="run the debugging flow, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = mobilenet_v2(10, arguments.width, arguments.weights)
    labels = [label for label in arguments.rows.split(";") if label]
    for label in labels:
        if label not in ROWS:
            raise SystemExit(f"--rows must be some of {'; '.join(ROWS)}, got '{label}'")
    batches = list(load_data(arguments.data).calibration.batches(BATCH, limit=CALIBRATION))
    tests = {name: in_batches(part, BATCH) for name, part in images(arguments.data, "test").items()}
    # Of the network before any repair, whatever a repair does to its float function.
    references = {
        (granularity, name): reference(captured(model, granularity, batches[:1]), part)
        for granularity in {label.split()[0] for label in labels}
        for name, part in tests.items()
    }
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
    for label in labels:
        granularity, setting = label.split()[:2]
        graph = captured(model, granularity, batches)
        policy = policy_of(graph, setting)
        seconds = 0.0
        for what in ROWS[label]:
            name, *given = what.split()
            options = {} if name == "cle" else {"policy": policy}
            options |= dict(option.split("=") for option in given)
            seconds += bw.repair(graph, name, batches, **options).processor_seconds
        float_pass()
        measured = {}
        for name, part in tests.items():
            measured[name] = figures_of(bw.evaluate(graph, policy, part, reference=references[granularity, name]))
            if "cle" in label:  # cross-layer equalization works on the float network: what that is now
                measured[name]["repaired_float_accuracy"] = reference(graph, part).figure.value.value
            shown = measured[name]
            print(
                f"# {label}, {name}: {shown['accuracy']['value']:.2%}, KL {shown['kl']['value']:.4f}, "
                f"agreement {shown['agreement']['value']:.2%}",
                flush=True,
            )
        rows.append({"row": label, "repairs": list(ROWS[label]), "measured": measured})
        spent.append(seconds)
    unit = statistics.median(passes)
    for row, seconds in zip(rows, spent, strict=True):
        row["cost_in_float_passes"] = seconds / unit
    figures: dict[str, Any] = {
        "calibration_images": CALIBRATION,
        "evaluation_images": {name: floats.samples for (_, name), floats in references.items()},
        "float_accuracy": {name: floats.figure.value.value for (_, name), floats in references.items()},
        "float_pass_seconds": {"median": unit, "smallest": min(passes), "largest": max(passes)},
        "rows": rows,
    }
    if arguments.flow:
        figures["flow_tensor_w8a8"] = {
            "trained": flow(model, batches, tests["lossless"]),
            "unbalanced": flow(unbalanced(model, batches), batches, tests["lossless"]),
        }
    write("mobilenetv2", figures, arguments.output)


if __name__ == "__main__":
    main()
