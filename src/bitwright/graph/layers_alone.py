"""Placements that quantize layers alone: weights, and what layers read; everything between stays in float.

A transformer adds up its layers' outputs in one stream, in which few channels are a hundred times as large as most.
Eight bits for that stream, as the default placement has them, lose the others. Here additions, norms, activation
functions and the products inside attention read and write float values, and a linear layer quantizes what it reads.

In front of what linear layers read stands a multiplication with one constant for each channel, all ones at first: the
place where ``smooth`` can take outliers out of a channel, whatever else reads the same value. Where the value comes
from a norm that nothing else reads, the norm's own weight serves, and there is no multiplication.

Papers on training quantize what convolutions read as well, for the convolution alone: an addition that reads the same
value reads it in float.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from bitwright.arguments import checked
from bitwright.errors import InvalidInput
from bitwright.graph.names import module_path
from bitwright.graph.operations import aten, channel_constants, entry_of
from bitwright.graph.placement import Placement, varying_values
from bitwright.graph.places import SCALES
from bitwright.graph.pt2e import PLACEMENTS, PlacementKind, placed_by
from bitwright.values.recipe import Action

GROUP = 32
"""Inputs of a weight that share a step in the placement ``weight-only``, if nothing else is asked for."""


def place_layers(module: GraphModule, activations: bool = True) -> Placement:
    """Sites at all weights and, if wanted, at what linear layers read."""
    placement = Placement()
    read = _read_by_layers(module) if activations else {}
    placement.outputs.update(dict.fromkeys(read))
    for node in module.graph.nodes:
        placement.add_weight(node)
    return placement


def place_operands(module: GraphModule) -> Placement:
    """Sites at all weights, and at what convolutions and linear layers read, for them alone."""
    placement = place_layers(module, activations=False)
    for source, readers in _read_by_layers(module, convolutions=True).items():
        placement.operands.update(dict.fromkeys((source, reader) for reader in readers))
    return placement


def add_scales(module: GraphModule) -> None:
    """Put a multiplication with ones in front of what linear layers read, as the module's docstring says."""
    holder = nn.Module()
    for source, readers in _read_by_layers(module).items():
        if channel_constants(source) and set(source.users) == set(readers):
            continue
        value = source.meta["val"]
        name = f"scale_{len(list(holder.parameters()))}"
        holder.register_parameter(name, nn.Parameter(torch.ones(int(value.shape[-1])), requires_grad=False))
        module.add_module(SCALES, holder)
        path, _ = module_path(readers[0])
        stack = dict(readers[0].meta.get("nn_module_stack") or {})
        with module.graph.inserting_before(readers[0]):
            ones = module.graph.get_attr(f"{SCALES}.{name}")
            scaled = module.graph.call_function(aten.mul.Tensor, (source, ones))
        ones.meta["val"] = value.new_ones(value.shape[-1])
        scaled.meta = {"val": value, "nn_module_stack": {**stack, "input": (f"{path}.input", "torch.nn.modules.Input")}}
        for reader in readers:
            reader.replace_input_with(source, scaled)
    module.recompile()


def _read_by_layers(module: GraphModule, convolutions: bool = False) -> dict[Node, list[Node]]:
    """Values that linear layers, or convolutions as well, multiply by constant weights -> those layers."""
    varying = varying_values(module)
    found: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        role = entry_of(node).layer
        if role is None or role.recurrent or not isinstance(node.args[role.weight], Node):
            continue
        if role.dims and not convolutions:
            continue
        source = node.args[role.input]
        if node.args[role.weight].op == "get_attr" and source in varying:
            found.setdefault(source, []).append(node)
    return found


def layer_quantizer(activations: str = "static", group_size: int | None = None) -> Any:
    """A placement of this module as a torchao PT2E ``Quantizer``.

    Args:
        activations: of what linear layers read: ``"static"``: ranges come from calibration; ``"dynamic"``: from each
            tensor that passes; ``"float"``: they are not quantized.
        group_size: inputs of a weight that share a step; None: all inputs of an output channel.
    """
    if activations not in ("static", "dynamic", "float"):
        raise InvalidInput(f"activations must be static, dynamic or float, got '{activations}'")
    if group_size is not None and group_size < 2:
        raise InvalidInput(f"group_size must be at least 2, got {group_size}")
    placement = partial(place_layers, activations=activations != "float")
    return placed_by(placement, prepared_by=add_scales, groups=group_size, dynamic=activations == "dynamic")


@checked
def weight_only(group_size: int = GROUP) -> Any:
    """Sites at weights alone.

    Args:
        group_size: inputs that share a step.
    """
    return layer_quantizer("float", group_size)


_SMOOTH = Action("repair", {"name": "smooth", "strength": None})
PLACEMENTS.register(
    PlacementKind(
        name="linear",
        order=12,
        does="Weights, and what linear layers read; everything between stays in float.",
        function=partial(layer_quantizer, "static", None),
        first=((_SMOOTH,), (Action("ranges", {"kind": "activation", "method": "minmax"}), _SMOOTH)),
    )
)
PLACEMENTS.register(
    PlacementKind(
        name="layers",
        order=15,
        does="Weights, and what convolutions and linear layers read, for these alone, as papers on training have it.",
        function=partial(placed_by, place_operands),
    )
)
PLACEMENTS.register(
    PlacementKind(
        name="dynamic",
        order=13,
        does="As linear, with the range of each tensor that passes instead of one from calibration.",
        function=partial(layer_quantizer, "dynamic", None),
        first=((_SMOOTH,),),
    )
)
PLACEMENTS.register(
    PlacementKind(
        name="weight-only",
        order=14,
        does=f"Weights alone, with a step for {GROUP} inputs; weight-only?group_size=64: for 64.",
        function=weight_only,
        first=((Action("repair", {"name": "smooth", "strength": None, "weights": 4}),),),
        judged_at=(4, 8),
    )
)
