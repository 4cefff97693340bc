"""Why torch.export stopped at a model: the line of the user's code, and the way out."""

from __future__ import annotations

import re
import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bitwright.errors import first_line
from bitwright.graph.calling import Calling

CHOOSING = (
    "what chooses boxes by their values (thresholds, non-maximum suppression) belongs behind the network: return the "
    "raw outputs, and let the task choose, as bw.tasks.Detection(decode=...) does"
)
ROWS = (
    "shapes must not depend on values: compute for all samples and weigh the results, e.g. "
    f"sum(gate[:, i, None] * expert(x)), or use torch.where in place of masks as an index; {CHOOSING}"
)
VALUES = f"write the branch or loop without Python control flow on tensor values (torch.where, torch.cond); {CHOOSING}"
PACKED = (
    "pass the padded batch to the recurrent layer as it is, and pick each sample's last state by its length, e.g. "
    "states[torch.arange(states.shape[0]), lengths - 1]"
)
BATCH = "use x.shape[0] or -1 in view and reshape, and no loop over the samples of a batch"
LENGTH = "take the sizes from x.shape, or pad all samples to one length"
UNSUPPORTED = "replace the unsupported call, or register it as a torch.library custom operator"
TYPES = "return tensors, or tuples, dictionaries or dataclasses of tensors"


def capture_message(model: nn.Module, calling: Calling, inputs: tuple[Any, ...], error: BaseException) -> str:
    """One line: where torch.export stopped, and the usual way out.

    Args:
        model: in evaluation mode.
        calling: how it is called.
        inputs: the example, in order; the model runs on it.
        error: of torch.export.
    """
    text, reason = str(error), first_line(error)
    where = _place(model, error)
    if _packed(error):
        reason, hint = "packed sequences have a length of their own for each sample", PACKED
    elif "Constraints violated" in text or "data-dependent" in text or "DataDependent" in type(error).__name__:
        rows, values = _depending_on_values(model, calling, inputs)
        fixed = _fixed_axes(model, calling, inputs)
        if rows:
            reason, where, hint = f"what {rows[0]} gives has a shape that depends on values", rows[1], ROWS
        elif fixed:
            reason, where, hint = f"the code fixes the size of {fixed}", "", LENGTH
        elif "Constraints violated" in text:
            reason, where, hint = _fixed_batch(model, calling, inputs), "", BATCH
        else:
            where, hint = where or (values[1] if values else ""), VALUES
    elif "not a known type" in text:
        hint = TYPES
    elif "unsupported" in text.lower() or "not supported" in text.lower():
        hint = UNSUPPORTED
    else:
        hint = VALUES
    place = f" {where}" if where else ""
    return (
        f"torch.export stopped{place}: {reason}; usual way out: {hint}; or pass a model that is exported already (.pt2)"
    )


def _place(model: nn.Module, error: BaseException) -> str:
    """The module and line that an error came from; nothing where it is not known."""
    walked = traceback.walk_tb(error.__traceback__)
    frames = [(frame.f_code.co_filename, line, frame.f_locals.get("self")) for frame, line in walked]
    in_model = [f for f in frames if isinstance(f[2], nn.Module) and not _inside_torch(f[0])]
    if in_model:
        file, line, module = in_model[-1]
        path = next((name for name, child in model.named_modules() if child is module), "")
        named = f"module '{path}'" if path else "the model itself"
        return f"in {named} ({type(module).__name__}) at {file}:{line}"
    mentioned = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', str(error))
    user = [m for m in mentioned if not _inside_torch(m[0])]
    return f"at {user[-1][0]}:{user[-1][1]}" if user else ""


def _packed(error: BaseException) -> bool:
    """Whether an error came from a packed sequence, or from packing one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    held = (value for frame in frames for value in frame.f_locals.values())
    return any(isinstance(value, rnn.PackedSequence) for value in held) or any(
        frame.f_code.co_filename == rnn.__file__ for frame in frames
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first operation whose shape, and the first one whose result in Python, depends on values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: tuple[str, str] | None = None
        self.values: tuple[str, str] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8) for value in tree_leaves(args[1])
        )
        if masks or (torch.Tag.dynamic_output_shape in func.tags and name != "index"):
            self.rows = self.rows or ("an index that is a mask" if masks else name, _user_line())
        elif torch.Tag.data_dependent_output in func.tags:
            self.values = self.values or (name, _user_line())
        return func(*args, **(kwargs or {}))


def _depending_on_values(
    model: nn.Module, calling: Calling, inputs: tuple[Any, ...]
) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """(operation, place) of the first shape and of the first Python number that depend on values."""
    watch = _Watch()
    with torch.no_grad(), watch:
        calling.run(model, inputs)
    return watch.rows, watch.values


def _fixed_batch(model: nn.Module, calling: Calling, inputs: tuple[Any, ...]) -> str:
    """What is wrong with the batch size: how the model fails on another one, if it does."""
    count = len(inputs[0])
    more = tree_map(lambda value: torch.cat([value, value[:1]]), tuple(inputs))
    try:
        with torch.no_grad():
            calling.run(model, more)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not _inside_torch(f.filename)]
        line = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        reason = f"{first_line(error)}{line}"
        return f"the code fixes the batch size: it runs on {count} samples, and not on {count + 1}: {reason}"
    return f"the code takes the batch size, {count} here, for a fixed number"


def _fixed_axes(model: nn.Module, calling: Calling, inputs: tuple[Any, ...]) -> str:
    """The free axes, if the model does not run where they are longer by one."""
    more = []
    for value, axes in zip(inputs, calling.free, strict=True):
        for axis in axes:
            value = torch.cat([value, value.narrow(axis, 0, 1)], axis)
        more.append(value)
    try:
        with torch.no_grad():
            calling.run(model, more)
    except Exception as error:
        return f"{calling.lengths}: {first_line(error)}"
    return ""


def _user_line() -> str:
    frames = [frame for frame in traceback.extract_stack() if not _inside_torch(frame.filename)]
    return f"at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _inside_torch(file: str) -> bool:
    return any(
        part in file for part in ("/torch/", "/torchao/", "<eval_with_key>", "/contextlib.py", "/bitwright/graph/")
    )
