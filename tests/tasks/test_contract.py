"""Every task of Bitwright's own keeps the contract of tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bitwright.tasks import TASKS, Classification, Dense, Detection, Embedding, Language, Regression, Task
from bitwright.testing import TaskContract

Answers = tuple[list[Any], list[Any], list[Any]]


def batches(value: Tensor) -> list[Tensor]:
    return list(value.split(6))


def near(value: Tensor, noise: float = 0.3) -> Tensor:
    return value + noise * torch.randn(value.shape)


def drawn(*shape: int, classes: int, axis: int = 1) -> Answers:
    torch.manual_seed(0)
    logits = torch.randn(shape)
    wanted = near(logits, 1.0).argmax(axis) % classes
    return batches(logits), batches(near(logits)), batches(wanted)


class TestClassification(TaskContract):
    def make(self) -> Task:
        return Classification()

    def answers(self) -> Answers:
        return drawn(18, 5, classes=5)


class TestTwoHeads(TaskContract):
    def make(self) -> Task:
        return Classification()

    def answers(self) -> Answers:
        parts = [drawn(18, 5, classes=5), drawn(18, 3, classes=3)]
        return tuple(  # type: ignore[return-value]
            [{"kind": one, "size": two} for one, two in zip(parts[0][i], parts[1][i], strict=True)] for i in range(3)
        )


class TestMetric(TaskContract):
    def make(self) -> Task:
        return Classification(metric=lambda z, y: float((z.topk(2).indices == y[:, None]).any(1).double().mean()))

    def answers(self) -> Answers:
        return drawn(18, 5, classes=5)


class TestDense(TaskContract):
    def make(self) -> Task:
        return Dense(ignore=3)

    def answers(self) -> Answers:
        return drawn(18, 4, 5, 5, classes=4)


class TestLanguage(TaskContract):
    def make(self) -> Task:
        return Language(ignore=3)

    def answers(self) -> Answers:
        return drawn(18, 7, 11, classes=11, axis=2)


class TestRegression(TaskContract):
    def make(self) -> Task:
        return Regression()

    def answers(self) -> Answers:
        torch.manual_seed(0)
        values = 5 + torch.randn(18, 3)
        return batches(values), batches(near(values)), batches(near(values))


class TestEmbedding(TaskContract):
    def make(self) -> Task:
        return Embedding(neighbours=3)

    def answers(self) -> Answers:
        torch.manual_seed(0)
        vectors = torch.randn(18, 8)
        return batches(vectors), batches(near(vectors)), [None] * 3


def decode(outputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    boxes, scores = outputs["boxes"], outputs["scores"].sigmoid()
    corners = torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:].abs()), -1)
    values, labels = scores.max(-1)
    return [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(corners, values, labels, strict=True)]


class TestDetection(TaskContract):
    def make(self) -> Task:
        pytest.importorskip("pycocotools")
        return Detection(decode=decode)

    def answers(self) -> Answers:
        torch.manual_seed(0)
        boxes = torch.cat((100 * torch.rand(18, 4, 2), 10 + 20 * torch.rand(18, 4, 2)), -1)
        scores = torch.randn(18, 4, 3)
        corners = torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -1) + torch.randn(18, 4, 4)
        wanted = torch.cat((corners, near(scores, 1.0).argmax(-1, keepdim=True)), -1)
        wanted[::2, -1, 4] = -1  # padding

        def split(boxes: Tensor, scores: Tensor) -> list[dict[str, Tensor]]:
            return [{"boxes": b, "scores": s} for b, s in zip(batches(boxes), batches(scores), strict=True)]

        return split(boxes, scores), split(near(boxes, 2.0), near(scores)), batches(wanted)


def test_every_task_is_registered_and_says_what_it_is_for() -> None:
    contracts = [found for name, found in globals().items() if name.startswith("Test")]
    assert {contract().make().name for contract in contracts} == set(TASKS)
    assert list(TASKS) == sorted(TASKS, key=lambda name: TASKS[name].order)
    assert all(TASKS[name].does for name in TASKS)
