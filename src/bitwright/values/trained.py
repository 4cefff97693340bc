"""A training as a value: its epochs, and what became of every site."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.values.json import Value


@dataclass(frozen=True)
class Epoch(Value):
    """One epoch of training.

    Attributes:
        loss: what was brought down, the mean over the samples of the epoch.
        distance: to the float model on held-out data, after the epoch (without rounding: the loss there); None without
            such data.
        primary: the task's primary figure there, likewise.
        moved: share of the weights whose integers changed in the epoch.
        oscillating: share of those that went back to where they were an epoch earlier.
        rate: learning rate at its end, as a share of the largest one.
    """

    loss: float
    distance: float | None
    primary: float | None
    moved: float
    oscillating: float
    rate: float


@dataclass(frozen=True)
class TrainedSite(Value):
    """What a training did at one site.

    Attributes:
        name: of the site.
        bits: its width.
        step: step after the training as a ratio to that before, the median of the channels.
        changed: share of the weight's integers that are others than before; None at an activation.
        oscillating: share of them that, in the epoch that was taken, went back to where they were an epoch earlier;
            None at an activation.
    """

    name: str
    bits: int
    step: float
    changed: float | None
    oscillating: float | None


@dataclass(frozen=True)
class Trained(Value, kind="training"):
    """How a training went.

    Attributes:
        policy_name: the policy that was trained.
        epochs: one entry for each, in their order.
        start: distance to the float model on held-out data before the training; None without such data.
        best: number of the epoch whose result was taken, counted from 1; 0 where none is nearer to float on held-out
            data than the start, which then stays.
        samples: of the training data.
        float_left: share of the parameters that were not trained, because they are not quantized.
        steps: the steps of activations and weights after training, as a ratio to those before: their least, median and
            largest.
        sites: what became of every site, in the policy's order.
        seconds: wall time.
        notes: what to keep in mind.
    """

    policy_name: str
    epochs: tuple[Epoch, ...]
    start: float | None
    best: int
    samples: int
    float_left: float
    steps: tuple[float, float, float]
    sites: tuple[TrainedSite, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        last = self.epochs[max(self.best, 1) - 1]
        held = "" if last.distance is None else f", held-out distance to float {last.distance:.4g}"
        return (
            f"{self.policy_name}: {len(self.epochs)} epochs of {self.samples} samples, loss "
            f"{self.epochs[0].loss:.4g} to {last.loss:.4g}{held} ({self.seconds:.0f} s)"
        )
