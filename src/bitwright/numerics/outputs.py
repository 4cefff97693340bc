"""What a change of a weight does to the output of its operation, from a sample of the operation's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputMoments:
    """Second moments of the inputs of an operation, as a matrix product sees them.

    Attributes:
        gram: (G, K, K) mean of x x^T over input rows x, or None where the rows themselves are smaller.
        rows: (G, R, K) input rows divided by sqrt(R), or None.
    """

    gram: Tensor | None
    rows: Tensor | None

    @classmethod
    def of(cls, rows: Tensor) -> InputMoments:
        """From (G, R, K) input rows: groups, samples of positions, inputs of a group x kernel."""
        rows = rows / rows.shape[1] ** 0.5
        if rows.shape[2] <= rows.shape[1]:
            return cls(torch.bmm(rows.transpose(1, 2), rows), None)
        return cls(None, rows)

    def output_error(self, change: Tensor) -> Tensor:
        """Mean squared change of each output, (G, O), for a change of the weight given as a matrix (G, O, K)."""
        if self.gram is not None:
            gram = self.gram.to(change.device, change.dtype)
            return (torch.bmm(change, gram) * change).sum(2)
        assert self.rows is not None
        return torch.bmm(change, self.rows.to(change.device, change.dtype).transpose(1, 2)).square_().sum(2)
