"""How a network is called: which tensors go in, under which names and in which order, and what stays the same.

Inside Bitwright the inputs of a batch are a tuple of tensors in the order of the graph's inputs. Batches that name
their inputs, ``{"input_ids": ..., "attention_mask": ...}``, keep the names (:class:`Named`) until a graph arranges
them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bitwright.errors import InvalidData, InvalidInput

TARGETS = ("labels", "label", "targets", "target")
"""The entry of a batch given by name that holds its targets: the first of these that is there."""

DECODER = "decoder_input_ids"
"""What networks of encoder and decoder make of the targets, shifted by one, where it is not given."""

FIXED = {"use_cache": False}
"""Arguments that networks are called with if they take them: a cache of keys and values is no output to compare."""


class Named(tuple[Tensor, ...]):
    """Inputs that a batch gave by name, in its own order."""

    names: tuple[str, ...]

    def __new__(cls, given: Mapping[str, Tensor]) -> Named:
        """From tensors by name."""
        made = super().__new__(cls, given.values())
        made.names = tuple(given)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """For copies."""
        return (dict(zip(self.names, self, strict=True)),)


def each(inputs: tuple[Any, ...], change: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The inputs of a batch with each of them changed; names are kept."""
    changed = tuple(change(value) for value in inputs)
    return Named(dict(zip(inputs.names, changed, strict=True))) if isinstance(inputs, Named) else changed


def as_given(inputs: tuple[Any, ...]) -> Any:
    """The inputs of a batch as a model is called with them: a dictionary where they have names."""
    return dict(zip(inputs.names, inputs, strict=True)) if isinstance(inputs, Named) else inputs


def named_inputs(given: Mapping[str, Any]) -> Named:
    """The tensors of a batch by name; None, numbers and texts, which are for all samples, are left out.

    Raises:
        InvalidData: an entry of another kind, or no tensor at all.
    """
    tensors = {str(name): value for name, value in given.items() if not _for_all(value)}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InvalidData(
                f"the inputs must be tensors, got a {type(value).__name__} for '{name}'; leave it out of the batches, "
                "or make it a tensor"
            )
    if not tensors:
        raise InvalidData("a batch given by name must hold at least one tensor")
    return Named(tensors)


def targets_in(given: Mapping[str, Any]) -> Any:
    """The targets of a batch that is one dictionary, or None."""
    return next((given[name] for name in TARGETS if given.get(name) is not None), None)


@dataclass(frozen=True)
class Calling:
    """How a network is called.

    Attributes:
        names: of its inputs, in order.
        how: ``"position"``, ``"name"``, or ``"dictionary"``: one dictionary of all inputs.
        fixed: further arguments by name, the same in every call.
        free: for each input the axes beside that of the samples whose size may vary from batch to batch.
        outputs: names of those of its outputs that are kept.
        returns: those that were asked for; none: all but single numbers.
    """

    names: tuple[str, ...]
    how: str = "position"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    free: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()

    def arguments(self, inputs: Iterable[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments for inputs in order."""
        if self.how == "position":
            return tuple(inputs), dict(self.fixed)
        given = dict(zip(self.names, inputs, strict=True))
        return ((given,), dict(self.fixed)) if self.how == "dictionary" else ((), {**given, **self.fixed})

    def sizes(self, batch: Any, free: Any, inputs: Iterable[Any]) -> list[dict[int, Any]]:
        """For each input what torch.export is told of its axes: the first is the batch, others may be free."""
        axes = self.free or ((),) * len(tuple(inputs))
        return [{0: batch, **dict.fromkeys(mine, free)} for mine in axes]

    @property
    def lengths(self) -> str:
        """The axes that may vary, in words; nothing where there are none."""
        named = [f"axis {axis} of {name}" for name, axes in zip(self.names, self.free, strict=False) for axis in axes]
        return ", ".join(named)

    def run(self, model: nn.Module, inputs: Iterable[Tensor]) -> Any:
        """What the model puts out for inputs in order."""
        args, kwargs = self.arguments(inputs)
        return model(*args, **kwargs)

    def again(self, inputs: tuple[Any, ...]) -> Any:
        """The inputs of a batch as example inputs, with which a capture calls the model in the same way again."""
        in_order = self.arranged(inputs)
        return in_order if self.how == "position" else {**dict(zip(self.names, in_order, strict=True)), **self.fixed}

    def arranged(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of a batch in order.

        Raises:
            InvalidData: they have names, and not those of the network's inputs.
        """
        if not isinstance(inputs, Named):
            return inputs
        given = dict(zip(inputs.names, inputs, strict=True))
        more = [name for name in given if name not in self.names and name not in TARGETS]
        if more or any(name not in given for name in self.names):
            raise InvalidData(
                f"a batch must hold the inputs that the model was captured with, {', '.join(self.names)}, got "
                f"{', '.join(given)}"
            )
        return tuple(given[name] for name in self.names)


def in_order(calling: Calling, example: Any) -> tuple[Any, ...]:
    """An example of a user in the order of the network's inputs."""
    if isinstance(example, Mapping):
        return calling.arranged(named_inputs(example))
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def free_axes(inputs: tuple[Any, ...], others: Iterable[tuple[Any, ...]]) -> tuple[tuple[int, ...], ...]:
    """For each input the axes beside the first along which examples differ in their size.

    Raises:
        InvalidInput: an example with other inputs, or with other numbers of axes.
    """
    found: list[set[int]] = [set() for _ in inputs]
    for other in others:
        if [value.dim() for value in other] != [value.dim() for value in inputs]:
            raise InvalidInput(
                f"examples of other lengths must have the axes of example_inputs, {_shapes(inputs)}, got "
                f"{_shapes(other)}"
            )
        for axes, one, two in zip(found, inputs, other, strict=True):
            axes |= {axis for axis in range(1, one.dim()) if one.shape[axis] != two.shape[axis]}
    return tuple(tuple(sorted(axes)) for axes in found)


def _shapes(inputs: Iterable[Any]) -> str:
    return ", ".join(str(tuple(value.shape)) for value in inputs)


def ways_to_call(model: nn.Module, example: Any) -> list[tuple[Calling, tuple[Any, ...]]]:
    """How a network can be called with an example, with the inputs in order; the first way that runs is the one.

    A dictionary that has targets gives two ways: without them, and with them; with them first for a network that makes
    its decoder's inputs of them.

    Raises:
        InvalidInput: a dictionary with entries that the network does not take.
        InvalidData: entries that cannot be inputs.
    """
    parameters = inspect.signature(model.forward).parameters
    fixed = {name: value for name, value in FIXED.items() if name in parameters}
    if not isinstance(example, Mapping):
        inputs = tuple(example) if isinstance(example, (tuple, list)) else (example,)
        return [(Calling(tuple(parameters)[: len(inputs)], fixed=fixed), inputs)]
    tensors = named_inputs(example)
    given = dict(zip(tensors.names, tensors, strict=True))
    fixed |= {str(name): value for name, value in example.items() if _for_all(value) and name in parameters}
    plain = {name: value for name, value in given.items() if name not in TARGETS}
    ways = [part for part in (plain, given) if part]
    if len(plain) == len(given) or not any(name in parameters for name in TARGETS):
        ways = ways[:1]
    elif DECODER in parameters and DECODER not in given:
        ways.reverse()
    return [_by_name(part, parameters, fixed) for part in ways]


def _by_name(
    given: dict[str, Any], parameters: Mapping[str, inspect.Parameter], fixed: dict[str, Any]
) -> tuple[Calling, tuple[Any, ...]]:
    kinds = [parameter.kind for parameter in parameters.values()]
    unknown = [name for name in given if name not in parameters]
    if not unknown or inspect.Parameter.VAR_KEYWORD in kinds:
        names = (*(name for name in parameters if name in given), *unknown)
        return Calling(names, "name", fixed), tuple(given[name] for name in names)
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if len(needed) == 1 and needed[0].name not in given and len(unknown) == len(given):
        return Calling(tuple(given), "dictionary", fixed), tuple(given.values())
    raise InvalidInput(
        f"the model's forward takes no input '{unknown[0]}' (it takes "
        f"{', '.join(parameters)}); leave it out of example_inputs and of the batches"
    )


def _for_all(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
