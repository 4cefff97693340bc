"""Whether a traced graph computes what its model computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bitwright.errors import CaptureError
from bitwright.graph.calling import Calling
from bitwright.graph.outputs import kept

TOLERANCE = 1e-4
"""Largest difference in float32 over the value, or over the output's typical value where the value is smaller. Folded
batch norms and sums in another order bring 4e-6 in the networks that this was tried on."""
MARGIN = 10.0
"""A graph may be this many times as far from the model in float64 as the model in float32 is."""


def check_faithful(
    model: nn.Module, calling: Calling, inputs: tuple[Any, ...], expected: Sequence[Tensor], found: Any
) -> None:
    """Compare a graph's outputs with its model's.

    Where they differ by more than :data:`TOLERANCE`, the model is run in float64: a network that enlarges rounding
    errors is itself about as far from that in float32 as its graph is.

    Args:
        model: the model.
        calling: how it is called.
        inputs: an example, in order.
        expected: the model's outputs for it that the graph keeps.
        found: the graph's.

    Raises:
        CaptureError: they differ.
    """
    names = calling.outputs
    found = [value for value in tree_leaves(found) if isinstance(value, Tensor)]
    output, difference = largest_difference(names, expected, found)
    if difference <= TOLERANCE:
        return
    again = kept(calling.run(model, inputs), names)
    if largest_difference(names, expected, again)[1] > TOLERANCE:
        raise CaptureError(
            "the model puts out something else when it runs again on the same inputs; take randomness, and what it "
            "keeps from one call to the next, out of its forward"
        )
    exact = _in_double(model, calling, inputs)
    if exact is not None:
        rounding = largest_difference(names, exact, expected)[1]
        if largest_difference(names, exact, found)[1] <= MARGIN * rounding < float("inf"):
            return
    name = f"output '{output}'" if len(names) > 1 else "its output"
    how = f"differs by {difference:.2g} of its typical value" if difference < float("inf") else "is another"
    raise CaptureError(
        f"the captured graph does not compute what the model computes: {name} {how}; usual way out: take in-place "
        "changes of tensors (x[...] = y, x.add_(y)) out of its forward"
    )


def largest_difference(names: Sequence[str], expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[str, float]:
    """The output that differs most, and by how much; see :data:`TOLERANCE`."""
    pairs = zip(names, expected, found, strict=True)
    return max(((name, _difference(one, two)) for name, one, two in pairs), key=lambda pair: pair[1], default=("", 0.0))


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    one, two = expected.double(), found.double()
    if not expected.is_floating_point():
        return 0.0 if one.equal(two) else float("inf")
    differ = (one != two) & ~(one.isnan() & two.isnan())
    finite = one.isfinite()
    if not bool(differ.any()):
        return 0.0
    if bool((differ & ~(finite & two.isfinite())).any()):
        return float("inf")
    sizes = one[finite & (one != 0)].abs()
    typical = sizes.median() if len(sizes) else one.new_ones(())
    return float(((one - two).abs() / one.abs().clamp(min=typical))[differ].max())


def _in_double(model: nn.Module, calling: Calling, inputs: tuple[Any, ...]) -> list[Tensor] | None:
    """The outputs in float64; None if the model cannot be run that way."""
    doubles = [value.double() if value.is_floating_point() else value for value in inputs]
    try:
        return kept(calling.run(copy.deepcopy(model).double(), doubles), calling.outputs)
    except Exception:  # a constant of its own code stays in float32
        return None
