"""Five networks of five kinds with their data, trained here in a few minutes each (the sentence encoder comes trained).

`networks` names them. Each is built from the data folder (``mnist``, ``sst2`` and ``reviews`` as described in
docs/experiments.md) and a folder in which trained weights are kept; seeds are fixed, so the same machine makes the same
network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from _text import LanguageModel, Vocabulary, WordPieces, sentence_encoder, sentences
from bitwright.data.canvas import Canvases, digits_on_canvas
from bitwright.zoo import load_weights, unet
from bitwright.zoo.detector import STRIDE, grid_detector

Parts = tuple[Any, Any]
"""Inputs (a tensor, or a tuple of several) and targets."""


@dataclass(frozen=True)
class Built:
    """A trained network with its data.

    Attributes:
        model: in evaluation mode.
        calibration: (inputs, targets) that it was trained on.
        evaluation: (inputs, targets) that it has not seen.
        seconds: of training in this run; 0 when the weights were there, or came trained.
    """

    model: nn.Module
    calibration: Parts
    evaluation: Parts
    seconds: float = 0.0


def canvases(data: Path, part: str, count: int, seed: int, **options: Any) -> Canvases:
    """Canvases of MNIST digits, of the ``train`` or the ``test`` part."""
    with np.load(data / "mnist" / f"{part}.npz") as digits:
        return digits_on_canvas(digits["x"], digits["y"], count, seed=seed, **options)


def trained(
    model: nn.Module,
    file: Path,
    inputs: Tensor,
    targets: tuple[Tensor, ...],
    loss: Callable[..., Tensor],
    epochs: int,
    rate: float,
    batch: int = 32,
    decay: float = 1e-4,
) -> tuple[nn.Module, float]:
    """The model with the weights in ``file``, which are trained first where there are none; and the seconds it took.

    AdamW under one cycle of the learning rate, the samples in a new order in each epoch.

    Args:
        model: freshly initialised.
        file: a .safetensors file.
        inputs: (N, ...) of training samples.
        targets: (N, ...) each.
        loss: (outputs, *targets) -> number.
        epochs: passes over the samples.
        rate: largest learning rate.
        batch: samples in a step.
        decay: weight decay.
    """
    if file.is_file():
        return load_weights(model, file), 0.0
    from safetensors.torch import save_model

    start, steps = time.perf_counter(), epochs * (len(inputs) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        order, total = torch.randperm(len(inputs), generator=generator), 0.0
        for chosen in order.split(batch):
            if len(chosen) < batch:
                continue
            value = loss(model(inputs[chosen]), *(part[chosen] for part in targets))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        seconds = time.perf_counter() - start
        print(
            f"# {file.stem}: epoch {epoch + 1}/{epochs}, loss {total * batch / len(inputs):.4f}, {seconds:.0f} s",
            flush=True,
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(file))
    return model.eval(), time.perf_counter() - start


def segmentation(data: Path, weights: Path) -> Built:
    """A U-Net that tells each pixel's digit: 11 classes with the background, canvases of 40 pixels.

    Nine of ten pixels are background, so that it counts a fifth in the loss.
    """
    shape: dict[str, Any] = {"size": 40, "most": 2, "heights": (14, 22)}
    train, test = canvases(data, "train", 3000, 1, **shape), canvases(data, "test", 500, 2, **shape)
    classes = torch.ones(11)
    classes[0] = 0.2
    torch.manual_seed(0)
    model, seconds = trained(
        unet(1, 11, width=8, depth=3),
        weights / "segmentation.safetensors",
        train.images,
        (train.masks,),
        lambda logits, masks: functional.cross_entropy(logits, masks, classes),
        epochs=10,
        rate=4e-3,
        batch=16,
    )
    return Built(model, (train.images, train.masks), (test.images, test.masks), seconds)


def detector_loss(outputs: dict[str, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
    """Binary cross-entropy of objectness, and cross-entropy of classes and box errors in the cells with a centre.

    Args:
        outputs: of a `GridDetector`.
        boxes: (N, M, 4) in pixels.
        classes: (N, M), -1 where there is no box.
    """
    image, place = (classes >= 0).nonzero(as_tuple=True)
    box, label = boxes[image, place], classes[image, place]
    centre, extent = (box[:, :2] + box[:, 2:]) / (2 * STRIDE), (box[:, 2:] - box[:, :2]) / STRIDE
    column, row = centre.long().unbind(1)
    wanted = torch.zeros_like(outputs["objectness"])
    wanted[image, 0, row, column] = 1.0
    objectness = functional.binary_cross_entropy_with_logits(outputs["objectness"], wanted, reduction="sum")
    found = outputs["boxes"][image, :, row, column]
    offsets = functional.smooth_l1_loss(found[:, :2].sigmoid(), centre.frac(), beta=0.1, reduction="sum")
    sizes = functional.smooth_l1_loss(found[:, 2:], extent.log(), beta=0.1, reduction="sum")
    kinds = functional.cross_entropy(outputs["classes"][image, :, row, column], label, reduction="sum")
    return (objectness + kinds + 2 * offsets + 2 * sizes) / len(classes)


def detection(data: Path, weights: Path) -> Built:
    """A one-stage detector of 1 to 4 digits on canvases of 64 pixels."""
    train, test = canvases(data, "train", 3000, 3), canvases(data, "test", 500, 4)
    torch.manual_seed(0)
    model, seconds = trained(
        grid_detector(),
        weights / "detection.safetensors",
        train.images,
        (train.boxes, train.classes),
        detector_loss,
        epochs=8,
        rate=4e-3,
    )
    return Built(model, (train.images, boxes_of(train)), (test.images, boxes_of(test)), seconds)


def boxes_of(scenes: Canvases) -> Tensor:
    """(N, M, 5) boxes in pixels with their classes; class -1 where there is none."""
    return torch.cat((scenes.boxes, scenes.classes.unsqueeze(-1).float()), -1)


class BoxRegressor(nn.Module):
    """Centre, width and height of the one digit in (N, 1, 48, 48) images, in pixels."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 16, 32, 32, 32]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2 if s else 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for s, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
            )
        )
        self.hidden, self.relu = nn.Linear(32 * 6 * 6, 64), nn.ReLU()
        self.out = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4): column and row of the centre, width, height."""
        x = self.relu(self.hidden(self.stages(x).flatten(1)))
        out: Tensor = self.out(x)
        return out


def regression(data: Path, weights: Path) -> Built:
    """Where one digit is and how large, in pixels."""
    shape = {"size": 48, "most": 1}
    train, test = canvases(data, "train", 3000, 5, **shape), canvases(data, "test", 1000, 6, **shape)
    wanted, expected = (
        torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
        for boxes in (train.boxes[:, 0], test.boxes[:, 0])
    )
    torch.manual_seed(0)
    model = BoxRegressor()
    with torch.no_grad():
        model.out.bias.copy_(wanted.mean(0))
    model, seconds = trained(
        model, weights / "regression.safetensors", train.images, (wanted,), functional.smooth_l1_loss, 8, rate=4e-3
    )
    return Built(model, (train.images, wanted), (test.images, expected), seconds)


def language(data: Path, weights: Path) -> Built:
    """A small language model on film reviews: 2,000 words, 32 at a time; tested on reviews it has not seen."""
    texts = sentences(data, "sst2/train.tsv", "reviews/imdb.txt", "reviews/yelp.txt", "reviews/amazon_cells.txt")
    order = np.random.RandomState(0).permutation(len(texts))
    texts = [texts[place] for place in order]
    vocabulary = Vocabulary(texts, 2000)
    train = vocabulary.windows(texts, 32)
    test = vocabulary.windows(sentences(data, "sst2/dev.tsv", "sst2/test.tsv"), 32)
    torch.manual_seed(0)
    model, seconds = trained(
        LanguageModel(),
        weights / "language.safetensors",
        train[0],
        (train[1],),
        lambda logits, wanted: functional.cross_entropy(logits.transpose(1, 2), wanted),
        epochs=6,
        rate=3e-3,
        decay=0.05,
    )
    return Built(model, train, test, seconds)


def embedding(data: Path, weights: Path) -> Built:
    """The sentence encoder all-MiniLM-L6-v2 on reviews of films: 32 word pieces, vectors of 384 numbers."""
    pieces = WordPieces()
    train, test = sentences(data, "sst2/train.tsv")[:1000], sentences(data, "sst2/dev.tsv")[:400]
    parts = tuple((pieces(texts, 32), torch.arange(len(texts))) for texts in (train, test))
    return Built(sentence_encoder(), *parts)


networks: dict[str, Callable[[Path, Path], Built]] = {
    "segmentation": segmentation,
    "detection": detection,
    "regression": regression,
    "language": language,
    "embedding": embedding,
}
