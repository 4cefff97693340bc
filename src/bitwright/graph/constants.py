"""Weights that a model computes from its parameters alone become plain weights, so that they get sites.

Weight norm, spectral norm in evaluation, normalized class vectors, ``x @ self.weight``: all of them are layers with a
constant weight. What depends on the input is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from bitwright.graph.names import attribute_at, module_path
from bitwright.graph.operations import aten, entry_of
from bitwright.graph.walk import Values, Walk

Valued = Callable[[Node], Tensor | None]


def fold_computed_weights(module: GraphModule) -> None:
    """Make products with constants linear layers, and constants of weights and biases parameters.

    Args:
        module: an exported graph, every node with its ``val``; it is changed, so it must own its tensors.
    """
    valued = _values(module)
    for node in list(module.graph.nodes):
        if entry_of(node).kind == "matmul":
            _as_linear(module, node, valued)
    valued = _values(module)  # of the new nodes, too
    stored: list[tuple[Node, str]] = []
    for node in list(module.graph.nodes):
        role = entry_of(node).layer
        if role is None:
            continue
        for position, label in ((role.weight, "weight"), (role.bias, "bias")):
            given = node.args[position] if position is not None and len(node.args) > position else None
            if isinstance(given, Node) and given.op == "call_function":
                value = valued(given)
                if value is not None:
                    stored.append((_store(module, node, given, value, label), _only_parameter(module, given)))
    if stored:
        module.graph.eliminate_dead_code()
        _delete_unused(module)
        for constant, wanted in stored:
            _rename(module, constant, wanted)
    module.graph.lint()
    module.recompile()


def _as_linear(module: GraphModule, node: Node, valued: Valued) -> None:
    """``x @ w`` with a constant ``w`` becomes ``linear(x, w.t())``, ``w @ x`` with a constant matrix its transpose."""
    left, right = node.args[:2]
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    before, after = valued(left), valued(right)
    constant, varying, weight = (right, left, after) if after is not None else (left, right, before)
    if weight is None or (before is not None and after is not None) or not weight.is_floating_point():
        return
    turned = constant is left
    single = weight.dim() == 3 and weight.shape[0] == 1 and node.target == aten.bmm.default
    vector = weight.dim() == 1 and not turned
    if not (weight.dim() == 2 or single or vector) or (turned and varying.meta["val"].dim() < 2):
        return

    def apply(target: Any, source: Node, *rest: Any) -> Node:
        made = module.graph.call_function(target, (source, *rest))
        made.meta["val"] = target(source.meta["val"], *rest)
        return made

    with module.graph.inserting_before(node):
        matrix = apply(aten.squeeze.dim, constant, 0) if single else constant
        if vector:
            matrix = apply(aten.unsqueeze.default, matrix, 0)
        elif not turned:
            matrix = _transposed(matrix) or apply(aten.t.default, matrix)
        source = apply(aten.transpose.int, varying, -2, -1) if turned else varying
        result = linear = module.graph.call_function(aten.linear.default, (source, matrix))
        linear.meta = dict(node.meta)
        linear.meta["val"] = node.meta["val"].unsqueeze(-1) if vector else node.meta["val"]
        if vector:
            result = apply(aten.squeeze.dim, linear, -1)
        elif turned:
            linear.meta["val"] = node.meta["val"].transpose(-2, -1)
            # In memory as the product was: a view that follows was traced for that.
            result = apply(aten.contiguous.default, apply(aten.transpose.int, linear, -2, -1))
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)


def _transposed(node: Node) -> Node | None:
    """The matrix that a node is the transpose of, so that a weight used both ways stays one weight; None for others."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or not isinstance(source.meta.get("val"), Tensor) or source.meta["val"].dim() != 2:
        return None
    dims: Any = {aten.t.default: (1, 0), aten.transpose.int: node.args[1:], aten.permute.default: node.args[-1]}
    swapped = dims.get(node.target, ())
    return source if len(swapped) == 2 and swapped[0] % 2 != swapped[1] % 2 and swapped != [0, 1] else None


def _values(module: GraphModule) -> Valued:
    """What gives the value of a node that is computed from parameters and buffers alone; None for any other."""
    walk, plain = Walk(module), set[Node]()
    for node in module.graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        made = node.op == "call_function" and node.all_input_nodes and not random
        if node.op == "get_attr" or (made and plain.issuperset(node.all_input_nodes)):
            plain.add(node)
    values = Values(walk, {}, {})

    def value(node: Node) -> Tensor | None:
        if node not in plain or not isinstance(node.meta.get("val"), Tensor):
            return None
        with torch.no_grad():
            found = values[node]
        return found if isinstance(found, Tensor) else None

    return value


def _only_parameter(module: GraphModule, node: Node) -> str:
    """Name of the one parameter that a value is computed from; "" where there are several."""
    parameters, found, queue = dict(module.named_parameters(remove_duplicate=False)), set(), [node]
    while queue:
        source = queue.pop()
        queue.extend(source.all_input_nodes)
        if source.op == "get_attr" and str(source.target) in parameters:
            found.add(str(source.target))
    name = found.pop() if len(found) == 1 else ""
    return "" if ".parametrizations." in f".{name}" else name


def _rename(module: GraphModule, constant: Node, name: str) -> None:
    """Give a folded weight the name of the parameter that it was computed from, if nothing else reads that one."""
    owner, _, attribute = name.rpartition(".")
    if not name or hasattr(module.get_submodule(owner), attribute):
        return
    module.get_submodule(owner).register_parameter(attribute, attribute_at(module, str(constant.target)))
    old, _, last = str(constant.target).rpartition(".")
    delattr(module.get_submodule(old), last)
    constant.target = name


def _store(module: GraphModule, layer: Node, given: Node, value: Tensor, label: str) -> Node:
    path = module_path(layer)[0]
    try:
        owner: nn.Module = module.get_submodule(path)
    except AttributeError:  # a module without parameters of its own
        path, owner = "", module
    name, count = label, 0
    while hasattr(owner, name):
        count += 1
        name = f"{label}_{count}"
    owner.register_parameter(name, nn.Parameter(value.detach().clone().contiguous(), requires_grad=False))
    with module.graph.inserting_before(layer):
        constant = module.graph.get_attr(f"{path}.{name}" if path else name)
    constant.meta["val"] = given.meta["val"]
    users = [user for user in given.users if entry_of(user).layer is not None]
    for user in users:
        user.replace_input_with(given, constant)
    return constant


def _delete_unused(module: GraphModule) -> None:
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_parameters(remove_duplicate=False)):
        if name not in used:
            owner, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner), attribute)
