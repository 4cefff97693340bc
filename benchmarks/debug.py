"""The debugging flow on two networks with a known fault, made from a trained ResNet without changing its function.

    python benchmarks/debug.py --data cifar10:DIR [--network resnet56] [--factor 100] [--seed 1] [--block 5]

- unbalanced: one channel in each block is 30 times as large (``--factor``; the largest channel, or with ``--seed`` one
  at random) and read with weights that much smaller; W8A8 with one scale for each weight tensor collapses, and
  cross-layer equalization is what mends it;
- outliers: one channel more in one block (``--block``), with values thousands of times as large, that nothing reads;
  W8A8 collapses, and the range of that one activation is what mends it.

Calibration: 512 training images; no test image is used for any choice. Needs BITWRIGHT_WEIGHTS.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.debug import debug  # noqa: E402
from bitwright.tasks import Classification  # noqa: E402
from bitwright.zoo import resnet20_cifar10, resnet56_cifar10  # noqa: E402

CALIBRATION, BATCH = 512, 64
NETWORKS = {"resnet20": resnet20_cifar10, "resnet56": resnet56_cifar10}


def blocks_of(model: nn.Module) -> list[Any]:
    """The residual blocks, in their order."""
    return [*model.layer1, *model.layer2, *model.layer3]  # type: ignore[misc]


def unbalanced(network: str = "resnet20", factor: float = 30.0, seed: int | None = None) -> nn.Module:
    """One channel of each block is ``factor`` times as large, and read with weights that much smaller."""
    model = NETWORKS[network]()
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in blocks_of(model):
            sizes = block.conv1.weight.abs().amax((1, 2, 3)) * block.bn1.weight.abs()
            chosen = sizes.argmax() if generator is None else torch.randint(len(sizes), (), generator=generator)
            channel = int(chosen)
            block.bn1.weight[channel] *= factor
            block.bn1.bias[channel] *= factor
            block.conv2.weight[:, channel] /= factor
    return model


def with_outliers(network: str = "resnet20", at: int = 1) -> nn.Module:
    """One channel more in a block, huge, that nothing reads."""
    model = NETWORKS[network]()
    block = blocks_of(model)[at]
    first, norm, second = block.conv1, block.bn1, block.conv2
    own, inputs = first.weight.shape[:2]
    with torch.no_grad():
        block.conv1 = nn.Conv2d(inputs, own + 1, 3, stride=first.stride, padding=1, bias=False)
        block.conv1.weight[:own] = first.weight
        block.conv1.weight[own] = 3000 * first.weight.abs().mean()
        block.bn1 = nn.BatchNorm2d(own + 1)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(block.bn1, name)[:own] = getattr(norm, name)
        block.conv2 = nn.Conv2d(own + 1, second.weight.shape[0], 3, padding=1, bias=False)
        block.conv2.weight[:, :own] = second.weight
        block.conv2.weight[:, own] = 0
    return model.eval()


def figures(model: nn.Module, task: Classification, granularity: str) -> dict[str, Any]:
    """The flow at W8A8 with a target of 0.5 points."""
    example = next(iter(task.calibration))[0][:2]
    graph = bw.capture(model, example, quantizer=bw.edge_quantizer(granularity))
    found = debug(graph, task, 0.5, model=model, on_step=lambda step: print(f"# {step.number}. {step.conclusion}"))
    before, after = found.step(2).verdict, found.verdict
    assert before is not None
    assert after is not None
    worst = next((step.sweep.rows[0].label for step in found.steps if step.sweep), None)
    return {
        "float_accuracy": before.float_accuracy.value,
        "plain_w8a8_accuracy": before.accuracy.value,
        "mended_accuracy": after.accuracy.value,
        "mended_interval": [after.accuracy_change.low, after.accuracy_change.high],
        "mended_kl": after.kl.value,
        "target_holds": found.outcome,
        "actions": [str(action) for action in found.recipe.actions],
        "recommendation": found.recommendation,
        "steps": [step.number for step in found.steps],
        "worst_site": worst,
        "float_passes": round(sum(step.passes for step in found.steps), 1),
    }


def main() -> None:
    """Both networks."""
    parser = output_argument(__doc__)
    parser.add_argument("--data", metavar="SPEC", required=True, help="e.g. cifar10:DIR")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet20")
    parser.add_argument("--factor", type=float, default=30.0, help="of the unbalanced channels")
    parser.add_argument("--seed", type=int, help="draw the unbalanced channels; default: the largest of each block")
    parser.add_argument("--block", type=int, default=1, help="with the outliers, counted from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(arguments.data)
    task = Classification(list(data.calibration.batches(BATCH, CALIBRATION)), list(data.evaluation.batches(BATCH)))
    result = {
        "network": arguments.network,
        "unbalanced_per_tensor_w8a8": figures(
            unbalanced(arguments.network, arguments.factor, arguments.seed), task, "tensor"
        ),
        "outliers_w8a8": figures(with_outliers(arguments.network, arguments.block), task, "channel"),
    }
    write("debug", result, arguments.output)


if __name__ == "__main__":
    main()
