"""Why torch.export stopped at a model: the line of the user's code, and the way out."""

from __future__ import annotations

import re
import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.overrides import TorchFunctionMode
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
    "sum(gate[:, i, None] * expert(x)), or use torch.where in place of masks as an index"
)
VALUES = "write the branch or loop without Python control flow on tensor values (torch.where, torch.cond)"
CAUSAL = (
    "tell nn.Transformer whether its masks are causal, tgt_is_causal=True, so that it does not look at their values"
)
PACKED = (
    "pass the padded batch to the recurrent layer as it is, and pick each sample's last state by its length, e.g. "
    "states[torch.arange(states.shape[0]), lengths - 1]"
)
COUNTS = "use x.shape[0] in its place; for all samples at once, without a loop over them"
BATCH = "use x.shape[0] or -1 in view and reshape, and no loop over the samples of a batch"
LENGTH = "take the sizes from x.shape, or pad all samples to one length"
UNSUPPORTED = "replace the unsupported call, or register it as a torch.library custom operator"
TYPES = "return tensors, or tuples, dictionaries or dataclasses of tensors"

GROUPED = (
    "torch.export takes grouped products of experts in bfloat16 alone: compute them in another way, in transformers by "
    'from_pretrained(..., experts_implementation="batched_mm")'
)


def capture_message(model: nn.Module, calling: Calling, inputs: tuple[Any, ...], error: BaseException) -> str:
    """One line: where torch.export stopped, and the usual way out."""
    text, reason = str(error), first_line(error)
    where = _place(model, error)
    if _packed(error):
        reason, hint = "packed sequences have a length of their own for each sample", PACKED
    elif "Constraints violated" in text or "data-dependent" in text or "DataDependent" in type(error).__name__:
        watch = _watched(model, calling, inputs)
        rows, values = watch.rows, watch.values
        fixed = _fixed_axes(model, calling, inputs)
        if rows:
            reason, where, hint = f"what {rows[0]} gives has a shape that depends on values", rows[1], ROWS
        elif fixed:
            reason, where, hint = f"the code fixes the size of {fixed}", "", LENGTH
        elif "Constraints violated" in text and (failed := _on_another_batch(model, calling, inputs)):
            reason, where, hint = f"the code fixes the batch size: {failed}", "", BATCH
        elif "Constraints violated" in text and watch.counts:
            reason, where, hint = f"{watch.counts[0]} gives the batch size as a fixed number", watch.counts[1], COUNTS
        elif "Constraints violated" in text:
            reason, where, hint = f"the code takes the batch size, {len(inputs[0])} here, for a fixed number", "", BATCH
        else:
            where, hint = where or (values[1] if values else ""), CAUSAL if watch.causal else VALUES
        hint += f"; {CHOOSING}" if watch.chooses else ""
    elif "grouped_mm" in "".join(traceback.format_tb(error.__traceback__)) and "BF16" in text:
        hint = GROUPED
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
    """Notes what may stop torch.export, each with its line.

    Attributes:
        rows: the first operation whose shape depends on values.
        values: the first whose result in Python does.
        counts: the first that gives the batch size as a number of Python's.
        causal: whether PyTorch looks at a mask to find out whether it is causal.
        chooses: whether an output has not one entry for each sample.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: tuple[str, str] | None = None
        self.values: tuple[str, str] | None = None
        self.counts: tuple[str, str] | None = None
        self.causal = self.chooses = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8) for value in tree_leaves(args[1])
        )
        if masks or (torch.Tag.dynamic_output_shape in func.tags and name != "index"):
            self.rows = self.rows or ("an index that is a mask" if masks else name, _user_line())
        elif torch.Tag.data_dependent_output in func.tags:
            self.values = self.values or (name, _user_line())
            self.causal |= any(frame.name == "_detect_is_causal_mask" for frame in traceback.extract_stack())
        return func(*args, **(kwargs or {}))


class _Counting(TorchFunctionMode):
    """Notes len(x) and loops over x, for a tensor with the samples first."""

    def __init__(self, watch: _Watch, count: int) -> None:
        super().__init__()
        self._watch, self._count = watch, count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = {Tensor.__len__: "len(x)", Tensor.unbind: "a loop over x"}.get(func)
        if name and args[0].shape[:1] == (self._count,):
            self._watch.counts = self._watch.counts or (name, _user_line())
        return func(*args, **(kwargs or {}))


def _watched(model: nn.Module, calling: Calling, inputs: tuple[Any, ...]) -> _Watch:
    """What a run of the model shows."""
    watch, count = _Watch(), len(inputs[0])
    with torch.no_grad(), _Counting(watch, count), watch:
        outputs = calling.run(model, inputs)
    watch.chooses = any(isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] != count for v in tree_leaves(outputs))
    return watch


def _on_another_batch(model: nn.Module, calling: Calling, inputs: tuple[Any, ...]) -> str:
    """How the model fails on one sample more, if it does."""
    count = len(inputs[0])
    more = tree_map(lambda value: torch.cat([value, value[:1]]), tuple(inputs))
    try:
        with torch.no_grad():
            calling.run(model, more)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not _inside_torch(f.filename)]
        line = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        reason = f"{first_line(error)}{line}"
        return f"it runs on {count} samples, and not on {count + 1}: {reason}"
    return ""


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
