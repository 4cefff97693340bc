"""Train the MobileNetV2 that benchmarks/mobilenetv2.py quantizes: CIFAR-10, one processor core, about 40 minutes.

    python benchmarks/train_mobilenetv2.py --data cifar10:DIR --output mobilenetv2.safetensors [--width 0.35]
        [--schedule 16x6,24x6,32x4] [--seed 0] [--figures FILE]

Small images first (the images resized to 16, then 24, then 32 pixels: four, two and one times as fast), stochastic
gradient descent with one cycle of the learning rate, and images that are mirrored and shifted. After each epoch the
weights are in --output and the state in --output.state; the same command goes on from there after an interruption. The
test images are read once, after the last epoch; they decide nothing.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import math  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from _cifar10_jpeg import images, in_batches  # noqa: E402
from _environment import write  # noqa: E402
from bitwright.zoo.mobilenet import MobileNetV2  # noqa: E402

BATCH, PEAK, WARM_UP, MOMENTUM, DECAY, SHIFT = 64, 0.06, 0.2, 0.9, 1e-4, 1 / 8
"""Images in a batch, largest learning rate, the part of the run in which it rises, momentum, weight decay (on weights,
not on biases and batch norm), and the largest shift as a part of the image's side."""


def learning_rate(progress: float) -> float:
    """Up in a line, down along a cosine."""
    if progress < WARM_UP:
        return PEAK * (0.05 + 0.95 * progress / WARM_UP)
    return PEAK * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, 3, S, S) shifted by its own offset over a mirrored border, and mirrored half of the time."""
    count, _, size, _ = x.shape
    reach = round(size * SHIFT)
    padded = nn.functional.pad(x, (reach,) * 4, mode="reflect")
    steps = torch.arange(size)
    rows = steps + torch.randint(2 * reach + 1, (count, 1), generator=generator)
    columns = steps + torch.randint(2 * reach + 1, (count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample, channel = torch.arange(count).view(-1, 1, 1, 1), torch.arange(3).view(1, -1, 1, 1)
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def accuracy(model: nn.Module, collection: tuple[Tensor, Tensor]) -> float:
    """The part of the images that is classified correctly."""
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in in_batches(collection, 128):
            right += int((model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum())
    return right / len(collection[1])


def save(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, seconds: float, output: Path) -> None:
    """The weights and the state after ``epoch`` epochs; each file is complete or not there."""
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    state = {"model": weights, "optimizer": optimizer.state_dict(), "epoch": epoch, "seconds": seconds}
    temporary = output.with_suffix(".part")
    save_file(weights, temporary)
    temporary.replace(output)
    torch.save(state, temporary)
    temporary.replace(state_file(output))


def state_file(output: Path) -> Path:
    """Where an interrupted run goes on."""
    return output.with_name(output.name + ".state")


def train(arguments: Any) -> tuple[MobileNetV2, float]:
    """The trained network and the processor seconds of its training."""
    sizes = [
        int(size)
        for size, _, count in (s.partition("x") for s in arguments.schedule.split(","))
        for _ in range(int(count))
    ]
    output = Path(arguments.output)
    torch.manual_seed(arguments.seed)
    model = MobileNetV2(10, arguments.width, dropout=0.0).to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK,
        momentum=MOMENTUM,
        nesterov=True,
    )
    first, before = 0, 0.0
    if state_file(output).is_file():
        state = torch.load(state_file(output), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, before = state["epoch"], state["seconds"]
    collections = images(arguments.data, "train").values()
    full = torch.cat([x for x, _ in collections])
    targets = torch.cat([y for _, y in collections])
    steps = len(targets) // BATCH
    start, shown = time.process_time(), (0, full)
    for epoch in range(first, len(sizes)):
        if shown[0] != sizes[epoch]:
            size = sizes[epoch]
            small = (
                full
                if size == full.shape[-1]
                else nn.functional.interpolate(full, size=size, mode="bilinear", antialias=True)
            )
            shown = (size, small)
        generator = torch.Generator().manual_seed(1000 * arguments.seed + epoch)
        order = torch.randperm(len(targets), generator=generator)
        model.train()
        total, right = 0.0, 0
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((epoch + step / steps) / len(sizes))
            chosen = order[step * BATCH : (step + 1) * BATCH]
            x = augmented(shown[1][chosen], generator).contiguous(memory_format=torch.channels_last)
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, targets[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += int((logits.detach().argmax(1) == targets[chosen]).sum())
        seconds = before + time.process_time() - start
        save(model, optimizer, epoch + 1, seconds, output)
        print(
            f"# epoch {epoch + 1}/{len(sizes)}: {sizes[epoch]} pixels, loss {total / steps:.3f}, "
            f"training accuracy {right / (steps * BATCH):.3f}, {seconds:.0f} s",
            flush=True,
        )
    return model.eval(), before + time.process_time() - start


def main() -> None:
    """Train, save, measure."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="SPEC", required=True, help="e.g. cifar10:DIR")
    parser.add_argument("--output", metavar="FILE", required=True, help="where the weights go: a .safetensors file")
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--schedule", default="16x6,24x6,32x4", help="image size x epochs, in order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", metavar="FILE", help="write the JSON to this file, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, seconds = train(arguments)
    tested = images(arguments.data, "test")
    figures = {
        "width": arguments.width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "schedule": arguments.schedule,
        "seed": arguments.seed,
        "training_processor_seconds": round(seconds),
        "float_accuracy": {name: accuracy(model, collection) for name, collection in tested.items()},
        "images": {name: len(collection[1]) for name, collection in tested.items()},
    }
    write("train_mobilenetv2", figures, arguments.figures)


if __name__ == "__main__":
    main()
