"""Outputs of a network, whatever their structure: tensors by name, and the ones of a graph that are kept."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import SUPPORTED_NODES, tree_flatten, tree_map, tree_unflatten

from bitwright.errors import BitwrightWarning, CaptureError, InvalidInput, nearest
from bitwright.graph.obstacles import CHOOSING
from bitwright.graph.symbols import value_of


def flatten(outputs: Any) -> dict[str, Tensor]:
    """Every tensor of an output by its name, in order.

    One tensor is called ``"output"``. Those of tuples and lists are called by their position, those of dictionaries
    and dataclasses by their key, one in another with a dot between: ``"heads.0"``. What is None is left out.

    Raises:
        InvalidInput: something that is neither a tensor nor a structure of tensors.
    """
    return dict(_walk(outputs, ""))


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "output", value
    elif value is not None:
        for key, part in _parts(value, name):
            yield from _walk(part, f"{name}.{key}" if name else str(key))


def _parts(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.items()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, (tuple, list)):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    where = f" at '{name}'" if name else ""
    raise InvalidInput(f"the network must return tensors, got {type(value).__name__}{where}; wrap the model")


def kept(outputs: Any, names: Iterable[str]) -> list[Tensor]:
    """The tensors of an output that have these names, in the names' order."""
    found = flatten(tree_map(lambda value: value if isinstance(value, Tensor) else None, outputs))
    return [found[name] for name in names if name in found]


def register(outputs: Any) -> None:
    """Make the dataclasses in an output known to torch.export."""
    if dataclasses.is_dataclass(outputs) and type(outputs) not in SUPPORTED_NODES:
        torch.export.register_dataclass(type(outputs))
    if dataclasses.is_dataclass(outputs) or isinstance(outputs, (Mapping, tuple, list)):
        for _, part in _parts(outputs, ""):
            register(part)


def keep_outputs(module: GraphModule, returns: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out all outputs but some, with what computes them alone.

    One that is kept by its name is returned as it is, several as a dictionary by name, as are those of a network that
    returns a mapping or a dataclass of its own kind.

    Args:
        module: the graph as torch.export gives it.
        returns: the names; none: all but single numbers beside other outputs, such as the loss of a whole batch.

    Raises:
        InvalidInput: there is no output of such a name.
        CaptureError: the size of an output depends on values.
    """
    last = next(reversed(module.graph.nodes))
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    marks = [torch.empty(0) if isinstance(value, Node) else None for value in last.args[0]]
    structure = tree_unflatten(marks, info.out_spec)
    nodes = {id(mark): value for mark, value in zip(marks, last.args[0], strict=True)}
    named = {name: nodes[id(mark)] for name, mark in flatten(structure).items()}
    known = {name: node for name, node in named.items() if value_of(node) is not None}  # the rest are sizes
    for name in returns:
        if name not in known:
            raise InvalidInput(
                f"returns must name outputs of the network, {', '.join(known)}, got '{name}'{nearest(name, known)}"
            )
    left = returns or tuple(name for name, node in known.items() if _dimensions(node)) or tuple(known)
    for name in left:
        if free_unbacked_symbols(value_of(known[name])):
            raise CaptureError(f"the size of the output '{name}' depends on values, not on shapes alone; {CHOOSING}")
    left_out = [name for name in known if name not in left]
    if left_out and not returns:
        warnings.warn(
            f"the output {left_out[0]} is a single number for a whole batch and is left out", BitwrightWarning, 2
        )
    if not left_out and _plain(structure):
        return left
    found: Any = {name: known[name] for name in left}
    values, spec = tree_flatten(found if not returns or len(left) > 1 else found[left[0]])
    last.args = (tuple(values),)
    module.graph._codegen.pytree_info = info._replace(out_spec=spec)  # type: ignore[attr-defined]
    module.graph.eliminate_dead_code()
    module.recompile()
    return left


def _dimensions(node: Node) -> bool:
    value = value_of(node)
    return value is None or value.dim() > 0


def _plain(structure: Any) -> bool:
    """Whether it consists of tensors, tuples, lists and dictionaries alone."""
    if structure is None or isinstance(structure, Tensor):
        return True
    if type(structure) in (tuple, list, dict) or hasattr(structure, "_fields"):
        return all(_plain(part) for _, part in _parts(structure, ""))
    return False
