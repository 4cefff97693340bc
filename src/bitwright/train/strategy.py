"""What a strategy of training is: how a step looks at a batch, described. Any network is trained by any of them.

A strategy gets a lesson, which gives the losses of the network that is trained for whatever inputs it is asked, and
the inputs and targets of a batch. It returns the losses that the step brings down::

    def harder(lesson, inputs, targets):
        return lesson(tuple(1.5 * value for value in inputs), (1.0, targets))

What is learned (float weights, or what stands at the sites) and what the losses are (the task's own, or the distance to
a float network) is settled elsewhere, and no strategy needs to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from bitwright.registry import Descriptor, Registry, parsed


class Lesson(Protocol):
    """The losses of the network that is trained."""

    def __call__(self, inputs: tuple[Any, ...], *targets: tuple[float, Any]) -> Tensor:
        """(N,) losses of the samples, with gradients for parameters, and for inputs that want them.

        Args:
            inputs: of the batch, or what a strategy made of them: as many samples.
            targets: shares, which sum to 1, each with targets that count by it.
        """


Steps = Callable[[Lesson, tuple[Any, ...], Any], Tensor]
"""What a strategy with its options does: (lesson, inputs, targets) -> (N,) losses."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Strategy(Descriptor):
    """A function ``(lesson, inputs, targets) -> losses`` with options; targets are None where the data has none.

    Random numbers are drawn with torch's own generator, which is seeded for each epoch.
    """

    function: Callable[..., Tensor]
    given: tuple[str, ...] = ("lesson", "inputs", "targets")


STRATEGIES: Registry[Strategy] = Registry("strategy", "bitwright.train", group="bitwright.strategies")
"""Every strategy by name."""


def registered(**about: Any) -> Callable[[Callable[..., Tensor]], Strategy]:
    """Make a function the :class:`Strategy` that these attributes describe, and register it."""
    return lambda function: STRATEGIES.register(Strategy(function=function, **about))


def named_strategy(text: str) -> Steps:
    """The strategy that a text names: ``"mixup"``, with options ``"mixup?alpha=0.4"``.

    Raises:
        InvalidInput: an unknown name or option.
    """
    name, options = parsed(text)
    strategy = STRATEGIES[name]
    strategy.check_options("strategy", options)
    return partial(strategy.function, **options)
