"""Regression: values of any shape. The distance is the relative squared error, shown as SQNR in decibels, too."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData
from bitwright.graph.outputs import flatten
from bitwright.tasks.base import TASKS, Answer, Evidence, Values, Vectors
from bitwright.tasks.intervals import Draws
from bitwright.tasks.outputs import Named, per_sample
from bitwright.values import Figure, Measure

SQNR = Measure("sqnr", "SQNR", "dB")


@TASKS.register
class Regression(Vectors):
    """Values of any shape; the loss is the squared error, or the user's."""

    name, does, order = "regression", "values of any shape, by their squared error or a loss of yours", 40
    measures = (
        Measure("loss", "Loss", larger=False, relative=True),
        Measure("error", "Relative squared error", larger=False),
    )
    further = (SQNR,)
    primary, distance = "loss", "error"

    def read(self, outputs: Named, targets: Any) -> list[tuple[Tensor, Tensor]]:
        """Outputs with their targets: one tensor of them, or a dictionary by name; nothing with a loss of the user."""
        if targets is None or self.loss is not None:
            return []
        wanted = flatten(targets)
        names = list(wanted) if isinstance(targets, dict) else list(outputs)[: len(wanted)]
        pairs = []
        for name, target in zip(names, wanted.values(), strict=False):
            if name not in outputs or outputs[name].shape != target.shape:
                got = tuple(outputs[name].shape) if name in outputs else "no such output"
                raise InvalidData(
                    f"targets must have the shape of the outputs for the squared error, got {tuple(target.shape)} for "
                    f"'{name}' ({got}); reshape them, or give a loss of your own"
                )
            pairs.append((outputs[name], target))
        return pairs

    def own(self, answer: Answer) -> Values:
        """Mean squared errors, summed over the outputs."""
        parts = [per_sample((z.double() - t.double()).square()) for z, t in answer.read]
        return {"loss": torch.stack(parts).sum(0)} if parts else {}

    def score(self, outputs: Any, targets: Any) -> Tensor:
        """(N,) squared errors, averaged over the entries, summed over the outputs."""
        pairs = self.read(flatten(outputs), targets)
        if not pairs:
            raise InvalidData("targets are needed here: batches must be (inputs, targets)")
        return torch.stack([(z - t).square().reshape(len(z), -1).mean(1) for z, t in pairs]).sum(0)

    def figures(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """The SQNR beside the others: minus ten times the base-10 logarithm of the distance."""
        found = super().figures(evidence, draws)
        if "error" in found:
            decibels = found["error"].value.mapped(lambda error: -10 * math.log10(error) if error > 0 else math.inf)
            found["sqnr"] = Figure(SQNR, decibels)
        return found
