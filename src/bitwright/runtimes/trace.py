"""The first half of an export: a copy of the graph in which each site is a marker, ready for ``torch.onnx``.

The copy shares the weights with the graph and leaves it alone. Sites that the policy keeps in float are gone from it;
the others become one ``bitwright.Site`` node each in the ONNX graph, which :mod:`bitwright.runtimes.export` then
replaces by integers. :mod:`bitwright.runtimes.xnnpack` replaces the markers themselves.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from bitwright.errors import ExportError
from bitwright.graph.graph import Graph
from bitwright.graph.names import attribute_at
from bitwright.graph.operations import aten, channel_constants, entry_of
from bitwright.graph.places import bias_at, quantizer_at, site_behind
from bitwright.graph.pt2e import quiet
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.runtimes.recurrent import mark_recurrences

DOMAIN = "bitwright"
MARKERS = "bitwright_markers"
"""Submodule of the copy that holds its markers."""
_POOL_DIMS = {3: (2,), 4: (2, 3), 5: (2, 3, 4)}


class Marker(nn.Module):
    """Stands where a site was and becomes a node of Bitwright's own domain in the ONNX graph."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def forward(self, tensor: Tensor) -> Tensor:
        """Only ever traced."""
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::Site", (tensor,), {"label": self.label}, dtype=tensor.dtype, shape=tensor.shape, version=1
        )


@dataclass
class Marked:
    """The copy, and what stands behind its markers.

    Attributes:
        module: the copy.
        activations: label -> quantizer.
        weights: label -> quantizer.
        biases: label -> (quantizer, float bias).
    """

    module: GraphModule
    activations: dict[str, Quantizer] = field(default_factory=dict)
    weights: dict[str, Quantizer] = field(default_factory=dict)
    biases: dict[str, tuple[BiasQuantizer, Tensor]] = field(default_factory=dict)


def mark(graph: Graph, onnx: bool = True) -> Marked:
    """Copy the graph with a marker at every site that its present policy quantizes.

    Args:
        graph: calibrated.
        onnx: with recurrent layers as one node each, and with linear layers that read matrices.
    """
    with quiet():
        copied = copy.deepcopy(graph.module.graph)
        module = GraphModule(graph.module, copied)
    marked = Marked(module)
    dynamic = {node for node in copied.nodes if _reads_dynamic(graph.module, node)}
    holder = nn.Module()
    module.add_module(MARKERS, holder)
    for node in list(copied.nodes):
        quantizer, bias = quantizer_at(graph.module, node), bias_at(graph.module, node)
        label = f"m{len(list(holder.children()))}"
        if quantizer is not None:
            unrounded = _note(marked, label, quantizer, node.args[0])
        elif bias is not None:
            unrounded = _note_bias(marked, label, bias, node)
        else:
            continue
        if unrounded is None:
            holder.add_module(label, Marker(label))
            node.target = f"{MARKERS}.{label}"
        else:
            node.replace_all_uses_with(unrounded)
            copied.erase_node(node)
    _drop_ones(module)
    if onnx:
        mark_recurrences(module)
        copied.eliminate_dead_code()
        _flatten_linears(module, dynamic)
    _keep_pooled_dimensions(module)
    copied.eliminate_dead_code()
    module.delete_all_unused_submodules()
    copied.lint()
    module.recompile()
    return marked


def _note(marked: Marked, label: str, quantizer: Quantizer, source: Any) -> Node | None:
    """Remember what stands at a marker; its input where that passes it unchanged."""
    if quantizer.bits is None:
        return source  # type: ignore[no-any-return]
    with torch.no_grad():
        expected = quantizer.expected_bits
    if expected != quantizer.bits:
        raise ExportError(
            f"site '{quantizer.site.name}' mixes several widths, {float(expected or 0):.3g} bits on average; an "
            "exported graph has one width at each site: choose one before you export"
        )
    (marked.weights if quantizer.site.kind == "weight" else marked.activations)[label] = quantizer
    return None


def _note_bias(marked: Marked, label: str, quantizer: BiasQuantizer, node: Node) -> Node | None:
    """The same for a bias: it, or the one that a repair put in its place, where it isn't rounded."""
    module, source = marked.module, node.args[0]
    assert isinstance(source, Node)
    bias = attribute_at(module, str(source.target))
    if quantizer.scale() is not None:
        marked.biases[label] = (quantizer, bias)
        return None
    effective = quantizer.effective(bias)
    if effective is bias:
        return source
    name = f"corrected_{node.name}"
    module.register_buffer(name, effective)
    with module.graph.inserting_before(node):
        found = module.graph.get_attr(name)
    found.meta = dict(source.meta)
    return found


def _drop_ones(module: GraphModule) -> None:
    """Leave out multiplications of each channel with one: scales that no repair has used."""
    for node in list(module.graph.nodes):
        constants = channel_constants(node) if entry_of(node).kind == "mul" else ()
        if constants and bool((attribute_at(module, str(constants[0].target)) == 1).all()):
            (source,) = (arg for arg in node.all_input_nodes if arg not in constants)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)


def _last_of_pattern(node: Node) -> Node:
    """Follow an operation through the clamps and the marker that fuse with it."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if entry_of(user).limits is None and not str(user.target).startswith(f"{MARKERS}."):
            break
        node = user
    return node


def _restore(module: GraphModule, node: Node, target: Any, *args: Any) -> None:
    """Put a shape operation behind the pattern that starts at ``node``."""
    last = _last_of_pattern(node)
    with module.graph.inserting_after(last):
        restored = module.graph.call_function(target, (last, *args))
    restored.meta = {"nn_module_stack": last.meta["nn_module_stack"]} if "nn_module_stack" in last.meta else {}
    last.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)


def _shape(node: Any) -> list[Any] | None:
    while isinstance(node, Node) and str(node.target).startswith(f"{MARKERS}."):
        node = node.args[0]
    value = node.meta.get("val") if isinstance(node, Node) else None
    return list(value.shape) if isinstance(value, Tensor) else None


def _reads_dynamic(module: GraphModule, node: Node) -> bool:
    """Whether an operation reads an activation whose grid is made from each tensor."""
    role = entry_of(node).layer
    site = site_behind(module, node.args[role.input]) if role is not None else None
    return site is not None and site.bits is not None and site.dynamic


def _flatten_linears(module: GraphModule, left_alone: set[Node]) -> None:
    """Run linear layers on matrices: runtimes have an integer kernel for Gemm with a bias, none for MatMul plus Add.

    Not those whose input's grid is made from each tensor, which become MatMulInteger.
    """
    for node in list(module.graph.nodes):
        if entry_of(node).kind != "linear" or node in left_alone:
            continue
        shape, source = _shape(node), _shape(node.args[0])
        if shape is None or source is None or len(shape) < 3:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1 or not isinstance(source[-1], int):
            continue
        with module.graph.inserting_before(node):
            flat = module.graph.call_function(aten.reshape.default, (node.args[0], [-1, source[-1]]))
        flat.meta = {"nn_module_stack": node.meta["nn_module_stack"]} if "nn_module_stack" in node.meta else {}
        node.update_arg(0, flat)
        _restore(module, node, aten.reshape.default, sizes)


def _keep_pooled_dimensions(module: GraphModule) -> None:
    """Pool with the pooled dimensions kept, and drop them behind the site: that is the form with an integer kernel."""
    for node in list(module.graph.nodes):
        if entry_of(node).kind != "mean":
            continue
        source, dims = _shape(node.args[0]), node.args[1]
        if source is None or not isinstance(dims, (list, tuple)) or (len(node.args) > 2 and node.args[2]):
            continue
        pooled = tuple(sorted(int(d) % len(source) for d in dims))
        if pooled == _POOL_DIMS.get(len(source)):
            node.args = (node.args[0], list(pooled), True)
            _restore(module, node, aten.squeeze.dims, list(pooled))
