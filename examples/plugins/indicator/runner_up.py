"""An indicator: how near the second most likely class comes to the most likely one."""

from __future__ import annotations

from torch import Tensor

from bitwright.behavior import Indicator


def runner_up(probabilities: Tensor) -> Tensor:
    """The second largest probability as a share of the largest.

    Args:
        probabilities: (N, K) of the quantized network.

    Returns:
        (N,) from 0, certain, to 1, undecided between two.
    """
    top = probabilities.topk(2, dim=1).values
    return top[:, 1] / top[:, 0]


RUNNER_UP = Indicator(
    name="runner-up",
    does="The second largest probability as a share of the largest.",
    function=runner_up,
)
