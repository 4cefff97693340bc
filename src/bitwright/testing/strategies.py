"""The contract of a strategy of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.numerics.randomness import seeded
from bitwright.train import Strategy


class _Classes:
    """Losses of a small network with classes; without targets, of how far it is from another one."""

    def __init__(self) -> None:
        with seeded(1):
            self.network, self.other = (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        self.shares: list[float] = []

    def __call__(self, inputs: tuple[Any, ...], *targets: tuple[float, Any]) -> Tensor:
        logits: Tensor = self.network(inputs[0])
        self.shares.append(sum(share for share, _ in targets))
        if targets[0][1] is None:
            expected: Tensor = self.other(inputs[0])
            return (logits - expected).square().mean(1)
        losses = [share * nn.functional.cross_entropy(logits, y, reduction="none") for share, y in targets]
        return torch.stack(losses).sum(0)


class StrategyContract(ABC):
    """What every strategy must do; derive from it and write :meth:`make`."""

    @abstractmethod
    def make(self) -> Strategy:
        """The strategy."""

    def _losses(self, lesson: _Classes, labelled: bool = True, seed: int = 0) -> Tensor:
        inputs, targets = self._batch()
        with seeded(seed):
            return self.make().function(lesson, (inputs,), targets if labelled else None)

    @staticmethod
    def _batch() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        return torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)

    def test_it_says_what_it_stands_for(self) -> None:
        """Name and sentence."""
        assert self.make().name
        assert self.make().does.endswith("."), "does is a sentence"

    def test_it_gives_a_loss_for_each_sample_with_gradients(self) -> None:
        """Finite ones, which reach every parameter; with targets and without."""
        for labelled in (True, False):
            lesson = _Classes()
            losses = self._losses(lesson, labelled)
            assert losses.shape == (12,), f"losses of 12 samples have shape {tuple(losses.shape)}"
            assert bool(torch.isfinite(losses).all()), "losses must be finite"
            losses.sum().backward()  # type: ignore[no-untyped-call]
            assert all(each.grad is not None for each in lesson.network.parameters()), "a parameter gets no gradient"

    def test_shares_of_targets_sum_to_1(self) -> None:
        """Whenever it asks for losses."""
        lesson = _Classes()
        self._losses(lesson)
        assert lesson.shares, "the lesson is never asked"
        assert all(abs(share - 1) < 1e-6 for share in lesson.shares), f"shares sum to {lesson.shares}"

    def test_the_same_seed_gives_the_same(self) -> None:
        """Random numbers are torch's own."""
        first, second = (self._losses(_Classes(), seed=5) for _ in range(2))
        assert torch.equal(first, second), "draw random numbers with torch's generator"

    def test_the_batch_is_left_alone(self) -> None:
        """Inputs and targets stay what they are, and get no gradients."""
        inputs, targets = self._batch()
        lesson = _Classes()
        losses = self.make().function(lesson, (inputs,), targets)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        assert torch.equal(inputs, self._batch()[0]), "a strategy must not change the tensors that it is given"
        assert torch.equal(targets, self._batch()[1]), "a strategy must not change the tensors that it is given"
        assert inputs.grad is None
