"""What a user brings to be captured: a model and example inputs, checked and run once."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightWarning, InvalidData, InvalidInput, first_line
from bitwright.graph.calling import Calling, each, named_inputs, ways_to_call

Inputs = tuple[Any, ...]

_DIFFER_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RNNBase)
_HALF = (torch.float16, torch.bfloat16)
_UNWRITABLE = frozenset('"\\\n\r')
"""What torch.fx cannot write into the code that it makes of a graph."""


def prepared(model: Any, example_inputs: Any) -> tuple[Any, Any]:
    """A model and its example inputs, ready to be captured: on one device, in float32 or float64.

    Returns:
        The model, a copy where it was in half precision; the inputs, with at least two samples each: a tuple, or a
        mapping by name, also with what is no tensor.

    Raises:
        InvalidInput: no model, one in training mode, or NaN in its weights.
        InvalidData: inputs that cannot be used.
    """
    if isinstance(model, nn.Module):
        _check(model)
        full = in_full_precision(model)
        if full is not model:
            warnings.warn(
                "the model is in half precision and is captured in float32, in which it is simulated",
                BitwrightWarning,
                3,
            )
            model = full
            example_inputs = _mapped(example_inputs, lambda v: v.float() if v.dtype in _HALF else v)
    mapping = isinstance(example_inputs, Mapping)
    listed = (*example_inputs,) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    inputs = named_inputs(example_inputs) if mapping else listed
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        raise InvalidInput(
            "example_inputs must be a tensor, a tuple of tensors, one for each positional input, or a dictionary of "
            "tensors by name"
        )
    if any(value.dim() == 0 or value.shape[0] == 0 for value in inputs):
        raise InvalidData("example_inputs need a batch dimension with at least one sample, got an empty one")
    device = next(iter(model.parameters()), inputs[0]).device if isinstance(model, nn.Module) else inputs[0].device
    # A batch of one would be taken for a constant by torch.export.
    return model, _mapped(
        example_inputs if mapping else inputs,
        lambda v: (torch.cat([v, v]) if v.shape[0] == 1 else v).to(device),
    )


def in_full_precision(model: nn.Module) -> nn.Module:
    """The model; a copy in float32 where it is in half precision."""
    if not any(tensor.dtype in _HALF for tensor in (*model.parameters(), *model.buffers())):
        return model
    return copy.deepcopy(model).float()


def _mapped(inputs: Any, change: Any) -> Any:
    """The tensors of example inputs changed."""
    if isinstance(inputs, Mapping):
        return {name: change(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_mapped(value, change) for value in inputs)
    return change(inputs) if isinstance(inputs, Tensor) else inputs


def _check(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if module is model and module.training or isinstance(module, _DIFFER_IN_TRAINING) and module.training:
            subject = f"module '{path}'" if path else "the model"
            raise InvalidInput(
                f"{subject} is in training mode; call model.eval() first, or dropout and batch norm change its outputs"
            )
        if not _UNWRITABLE.isdisjoint(path):
            raise InvalidInput(
                f"names of modules must hold no double quotes, backslashes or line breaks, which torch.fx cannot "
                f"write, got {path!r}; rename the module"
            )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise InvalidInput(f"the weight '{name}' holds NaN or infinite values; load a checkpoint that is finite")
    for name, buffer in model.named_buffers():  # an attention mask may be infinite
        if buffer.is_floating_point() and bool(torch.isnan(buffer).any()):
            raise InvalidInput(f"the buffer '{name}' holds NaN; load a checkpoint that is finite")


def run(model: nn.Module, example: Any) -> tuple[Calling, Inputs, Any]:
    """How the model is called with an example, the example in order, and what the model puts out for it.

    Raises:
        InvalidInput: the model does not run on it.
    """
    failed: Exception | None = None
    ways = ways_to_call(model, example)
    for calling, inputs in ways:
        try:
            with torch.no_grad():
                return calling, inputs, calling.run(model, each(inputs, torch.clone))
        except Exception as error:
            failed = failed or error
    calling, inputs = ways[0]
    assert failed is not None
    shapes = ", ".join(str(tuple(v.shape)) for v in inputs)
    named = "" if calling.how == "position" else f" ({', '.join(calling.names)})"
    hint = _other_precision(model, inputs) or _by_name(model, calling) or _of_pixels(inputs)
    raise InvalidInput(
        f"the model does not run on example_inputs of shape {shapes}{named}: {first_line(failed)}{hint}"
    ) from failed


def _other_precision(model: nn.Module, inputs: Inputs) -> str:
    """A hint where the model's weights are of another precision than its inputs."""
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()})
    given = sorted({str(v.dtype).removeprefix("torch.") for v in inputs if v.is_floating_point()})
    if not kinds or not given or kinds == given:
        return ""
    return f"; the model is in {' and '.join(kinds)}, the inputs are in {' and '.join(given)}: return model.float()"


def _of_pixels(inputs: Inputs) -> str:
    """A hint where inputs are bytes."""
    bytewise = any(value.dtype == torch.uint8 for value in inputs)
    return "; the inputs are uint8: give what the model takes, e.g. images.float() / 255" if bytewise else ""


def _by_name(model: nn.Module, calling: Calling) -> str:
    """A hint where an argument can be given by its name alone."""
    parameters = inspect.signature(model.forward).parameters.values()
    only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not only or calling.how != "position":
        return ""
    names = ", ".join(f"'{p.name}': ..." for p in parameters if p.default is p.empty)
    return f"; '{only[0]}' must be given by its name: pass a dictionary, {{{names}}}"
