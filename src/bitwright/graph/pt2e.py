"""Everything that Bitwright knows about torchao's PT2E: annotating, preparing, reading observers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from bitwright.arguments import checked
from bitwright.errors import CaptureError, InvalidInput, MissingExtra, first_line
from bitwright.graph.folding import fold_behind_grouped_transposed, keep_shared_layers, norm_scales
from bitwright.graph.names import layer_name
from bitwright.graph.operations import entry_of
from bitwright.graph.placement import Placement, place
from bitwright.registry import Descriptor, Registry, parsed
from bitwright.values import Scheme
from bitwright.values.recipe import Action

_ANNOTATION = "quantization_annotation"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and torchao say while they trace (torch.export prints the graph when it fails)."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch", "torch.utils._pytree", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR + 5)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@checked
def edge_quantizer(
    weight_granularity: str = "channel", group_size: int | None = None, symmetric_activations: bool = False
) -> Any:
    """Bitwright's default placement as a torchao PT2E ``Quantizer`` (see :mod:`bitwright.graph.placement`).

    Args:
        weight_granularity: ``"channel"``, ``"tensor"`` or ``"group"``.
        group_size: input elements that share a step, for ``"group"``.
        symmetric_activations: signed symmetric activations; slower than unsigned ones on x86.
    """
    if weight_granularity not in ("channel", "tensor", "group"):
        raise InvalidInput(f"weight_granularity must be channel, tensor or group, got '{weight_granularity}'")
    if weight_granularity == "group" and (group_size is None or group_size < 2):
        raise InvalidInput(f"group_size must be at least 2 for weight_granularity='group', got {group_size}")
    groups = group_size if weight_granularity == "group" else None
    return placed_by(place, per_tensor=weight_granularity == "tensor", groups=groups, symmetric=symmetric_activations)


def placed_by(
    placement: Callable[[GraphModule], Placement],
    *,
    prepared_by: Callable[[GraphModule], None] | None = None,
    per_tensor: bool = False,
    groups: int | None = None,
    symmetric: bool = False,
    dynamic: bool = False,
) -> Any:
    """A torchao PT2E ``Quantizer`` that puts its sites where a function says.

    Args:
        placement: a graph -> where the sites go.
        prepared_by: changes the graph before, without changing what it computes.
        per_tensor: one step for each weight, not for each output channel.
        groups: input elements of a weight that share a step; None for whole channels.
        symmetric: signed symmetric activations.
        dynamic: the range of an activation is that of each tensor that passes.
    """
    with quiet():
        from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver, PlaceholderObserver
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    def weight_spec(axis: int) -> Any:
        if per_tensor:
            return QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric, None)
        return QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -128, 127, torch.per_channel_symmetric, axis)

    if symmetric:
        activation = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric)
    elif dynamic:
        activation = QuantizationSpec(
            torch.uint8, PlaceholderObserver, 0, 255, torch.per_tensor_affine, is_dynamic=True
        )
    else:
        activation = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)

    class EdgeQuantizer(Quantizer):  # type: ignore[misc]
        """Places sites as ONNX Runtime's and most NPUs' quantizers do."""

        bitwright_group_size = groups

        def transform_for_annotation(self, model: GraphModule) -> GraphModule:
            if prepared_by is not None:
                prepared_by(model)
            return model

        def annotate(self, model: GraphModule) -> GraphModule:
            found = placement(model)
            notes: dict[Node, Any] = {}

            def note(node: Node) -> Any:
                if node not in notes:
                    notes[node] = node.meta[_ANNOTATION] = QuantizationAnnotation()
                    notes[node]._annotated = True
                return notes[node]

            for node in found.outputs:
                note(node).output_qspec = activation
            for source, user in found.operands:
                note(user).input_qspec_map[source] = activation
            for weight, user in found.weights:
                role = entry_of(user).weight
                assert role is not None
                note(user).input_qspec_map[weight] = weight_spec(role.channel_axis)
            return model

        def validate(self, model: GraphModule) -> None:
            """Nothing to check: the placement is made for the graph."""

    return EdgeQuantizer()


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacementKind(Descriptor):
    """A function that gives a PT2E ``Quantizer``, which says where the sites are and how they are quantized.

    What the function takes are options, all with a default: ``"weight-only?group_size=64"``.

    Attributes:
        beside: placements that the main job measures beside this one on networks made of linear layers, of which it
            takes the best.
        first: actions that it does first where that helps, each entry another way.
        judged_at: bits of weights and activations at which all this is measured.
    """

    function: Callable[..., Any]
    beside: tuple[str, ...] = ()
    first: tuple[tuple[Action, ...], ...] = ()
    judged_at: tuple[int, int] = (8, 8)


PLACEMENTS: Registry[PlacementKind] = Registry(
    "quantizer", "bitwright.graph", group="bitwright.placements", hint="or a PT2E Quantizer object"
)
"""What ``--quantizer`` names."""


def placement_kind(quantizer: Any) -> PlacementKind | None:
    """What a text of :func:`named_quantizer` names; None for a quantizer that is an object."""
    found: PlacementKind | None = PLACEMENTS.get(parsed(quantizer)[0]) if isinstance(quantizer, str) else None
    return found


def named_quantizer(name: str) -> Any:
    """A quantizer by the name that job files use, one of :data:`PLACEMENTS`, or with options of its function.

    Raises:
        InvalidInput: there is none of this name, or it has no such option.
        MissingExtra: the backend's package is not installed.
    """
    name, options = parsed(name)
    placement = PLACEMENTS[name]  # outside of quiet(): a package that cannot be used is reported
    placement.check_options("quantizer", options)
    with quiet():
        return placement.function(**options)


def _x86() -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())


def _xnnpack() -> Any:
    try:
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    except ImportError:
        raise MissingExtra("executorch", "xnnpack", "for quantizer='xnnpack'") from None
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    return xnnpack.XNNPACKQuantizer().set_global(config)


for _order, (_name, _does, _make) in enumerate(
    (
        ("edge", "As ONNX Runtime and most NPUs run it, with a step for each channel of a weight.", edge_quantizer),
        ("edge-tensor", "As edge, with one step for each weight.", lambda: edge_quantizer("tensor")),
        ("x86", "torchao's X86InductorQuantizer.", _x86),
        ("xnnpack", "ExecuTorch's XNNPACKQuantizer, with a step for each channel of a weight.", _xnnpack),
    )
):
    PLACEMENTS.register(PlacementKind(name=_name, order=10 * _order, does=_does, function=_make))


PLACEMENTS.register(
    PlacementKind(
        name="auto",
        order=-1,
        does="As edge; run measures linear beside it on networks made of linear layers, and takes the better one.",
        function=edge_quantizer,
        beside=("linear",),
    )
)

BATCH_NORMS = "bitwright batch norms"
"""Key of ``GraphModule.meta``: the names of the batch norms that the model had before any was folded."""
NORM_SCALES = "bitwright batch norm scales"
"""Key of ``GraphModule.meta``: path of a weight -> mean square of the scale of the batch norm behind its layer."""


def prepare(module: GraphModule, quantizer: Any) -> GraphModule:
    """Fold batch norms and insert the quantizer's observers (torchao's ``prepare_pt2e``).

    Raises:
        CaptureError: torchao refuses the graph or the quantizer.
    """
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

        _tell_calls_apart(module)
        norms = tuple(layer_name(node) for node in module.graph.nodes if entry_of(node).kind == "batch_norm")
        scales = norm_scales(module)
        fold_behind_grouped_transposed(module)
        keep_shared_layers(module)
        try:
            prepared: GraphModule = prepare_pt2e(module, quantizer)
            prepared.meta[BATCH_NORMS], prepared.meta[NORM_SCALES] = norms, scales
            return prepared
        except Exception as error:
            name = type(quantizer).__name__
            hint = "" if name == "EdgeQuantizer" else "; try the default placement (quantizer=None)"
            raise CaptureError(f"the quantizer {name} could not place its sites: {first_line(error)}{hint}") from error
        finally:
            _let_go()


def _let_go() -> None:
    """Empty two caches that hold every module that was ever prepared, with its weights.

    ``_assert_and_get_unique_device`` of torchao (0.18, ``utils.py``) and ``assert_and_get_unique_device`` of torch.ao
    (2.13, ``quantization/fx/utils.py``) are functions of a module under ``functools.cache``.
    """
    from torch.ao.quantization.fx import utils as torch_utils
    from torchao import utils as torchao_utils

    for holder, name in ((torchao_utils, "_assert_and_get"), (torch_utils, "assert_and_get")):
        clear = getattr(getattr(holder, f"{name}_unique_device", None), "cache_clear", None)
        if clear is not None:
            clear()


def _tell_calls_apart(module: GraphModule) -> None:
    """Give each call of a module that is called several times its own path (``relu``, ``relu@1``).

    torchao's quantizers look for patterns module by module and refuse two calls under one path.
    """
    for node in module.graph.nodes:
        stack = dict(node.meta.get("nn_module_stack") or {})
        if stack:
            label, (path, kind) = list(stack.items())[-1]
            call = str(label).partition("@")[2]
            if call and "@" not in str(path):
                node.meta["nn_module_stack"] = {**stack, label: (f"{path}@{call}", kind)}


def observer_nodes(module: GraphModule) -> list[tuple[Node, nn.Module]]:
    """Calls of observers and fake quantizers, in the order of execution."""
    with quiet():
        from torchao.quantization.pt2e import FakeQuantizeBase, ObserverBase
    found = []
    for node in module.graph.nodes:
        if node.op == "call_module":
            target = module.get_submodule(str(node.target))
            if isinstance(target, (ObserverBase, FakeQuantizeBase)):
                found.append((node, target))
    return found


_SYMMETRIC = {torch.per_tensor_symmetric, torch.per_channel_symmetric}
_PER_CHANNEL = {torch.per_channel_symmetric, torch.per_channel_affine}


def scheme_of(observer: Any, is_weight: bool, group_size: int | None = None) -> Scheme | None:
    """What an observer asks for, or None when it asks for nothing that rounds (placeholders, float16).

    Raises:
        CaptureError: it asks for something that Bitwright does not simulate.
    """
    dtype = getattr(observer, "dtype", None)
    if dtype not in (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32):
        return None
    dynamic = bool(getattr(observer, "is_dynamic", False))
    qscheme = getattr(observer, "qscheme", torch.per_tensor_affine)
    if dynamic and (is_weight or qscheme != torch.per_tensor_affine):
        raise CaptureError(
            "the quantizer asks for dynamic ranges of weights, of rows or around zero; simulated are those of whole "
            "activations with a zero point"
        )
    low, high = getattr(observer, "quant_min", None), getattr(observer, "quant_max", None)
    if low is None or high is None:
        info = torch.iinfo(dtype)
        low, high = info.min, info.max
    per_channel = qscheme in _PER_CHANNEL
    if per_channel and not is_weight:
        raise CaptureError("the quantizer asks for per-channel activations, which Bitwright does not simulate")
    axis = int(getattr(observer, "ch_axis", 0)) if per_channel else None
    group = group_size if is_weight and axis == 0 else None
    return Scheme(
        symmetric=qscheme in _SYMMETRIC,
        signed=low < 0,
        granularity="group" if group else ("channel" if per_channel else "tensor"),
        axis=axis,
        group_size=group,
        narrow=low < 0 and low == -high,
        dynamic=dynamic,
        native_bits=max(2, (int(high) - int(low)).bit_length()),
    )
