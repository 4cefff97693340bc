"""The default placement: where ONNX Runtime's and most NPUs' integer kernels expect quantized tensors.

- every convolution, linear layer, matrix product, addition, multiplication, concatenation and average pool reads
  quantized values and writes quantized values, so that it runs in integers and its neighbours fuse with it;
- a ReLU, ReLU6 or clamp behind such an operation is part of it: only the clamped value is quantized;
- operations that only move values (reshape, slice, zero padding, max pooling) keep the grid of their input;
- a linear layer or matrix product that makes a network output leaves it in float (logits are compared, not
  computed on);
- a concatenation that no integer kernel reads on its way out of the network stays in float: what it joins, such as a
  detector's pixels and probabilities, keeps the grids that it has, if any;
- a recurrent layer reads quantized values and has quantized weights; between its steps everything stays in float, and
  what it puts out is quantized where an operation of the kinds above reads it;
- constants, values made from constants alone (masks, initial states) and integer inputs (token ids) are left alone;
- a softmax reads what a float operation made, and sums of scores and masks, as they are: a mask's -inf would stretch
  any range.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule, Node

from bitwright.graph.operations import entry_of, feeds_recurrence, moves_only, source_of


@dataclass
class Placement:
    """Where sites go.

    Attributes:
        outputs: nodes whose value is quantized.
        operands: edges (node, operation): the value is quantized for this operation alone.
        weights: edges (weight node, operation).
    """

    outputs: dict[Node, None] = field(default_factory=dict)
    operands: dict[tuple[Node, Node], None] = field(default_factory=dict)
    weights: dict[tuple[Node, Node], None] = field(default_factory=dict)

    def add_weight(self, node: Node) -> bool:
        """Quantize the constant weight of an operation; whether it has one."""
        role = entry_of(node).weight
        weight = node.args[role.weight] if role is not None else None
        if not isinstance(weight, Node) or weight.op != "get_attr":
            return False
        self.weights[(weight, node)] = None
        return True


def _operands(node: Node) -> list[Node]:
    given = [node.args[position] for position in entry_of(node).operands if position < len(node.args)]
    listed = [arg for value in given for arg in (value if isinstance(value, (list, tuple)) else [value])]
    return [arg for arg in listed if isinstance(arg, Node)]


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def varying_values(module: GraphModule) -> set[Node]:
    """Nodes whose values depend on the network's inputs (a value that depends on their shapes alone does not)."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or (
            any(source in found for source in node.all_input_nodes)
            and (node.op == "call_module" or _is_tensor(node.meta.get("val")))
        ):
            found.add(node)
    return found


def _is_tensor(value: object) -> bool:
    return isinstance(value, (torch.Tensor, tuple, list))


def _is_tensor_operation(node: Node, varying: set[Node]) -> bool:
    count, operands = len(entry_of(node).operands), _operands(node)
    if count > 1:
        return len(operands) == count and all(
            operand in varying and _is_float(operand) and operand.meta["val"].dim() > 0 for operand in operands
        )
    return count == 1 and node in varying


def place(module: GraphModule) -> Placement:
    """Decide where the sites of a network go.

    Args:
        module: an exported graph with batch norms folded or not, every node with its ``val``.
    """
    placement = Placement()
    varying = varying_values(module)
    for node in module.graph.nodes:
        role = entry_of(node).weight
        weight = node.args[role.weight] if role is not None else None
        if role is not None and not entry_of(node).operands:
            placement.add_weight(node)
            continue
        if not _is_tensor_operation(node, varying) or not _is_float(node) or _masks_scores(node):
            continue
        if only_joins(node, varying):
            continue
        if not placement.add_weight(node) and isinstance(weight, Node) and weight in varying:  # another layer made it
            _quantize_operand(placement, weight, node)
        for operand in _operands(node):
            if operand in varying:
                _quantize_operand(placement, operand, node)
        _quantize_result(placement, node, varying)
    return placement


def _masks_scores(node: Node) -> bool:
    """Whether it adds to scores that only a softmax reads: a mask, whose -inf would stretch any range."""
    return entry_of(node).kind == "add" and _only_feeds_softmax(node)


def _only_feeds_softmax(node: Node) -> bool:
    return bool(node.users) and all(
        entry_of(user).kind == "softmax"
        or ((moves_only(user) or entry_of(user).kind == "add") and _only_feeds_softmax(user))
        for user in node.users
    )


def _quantize_operand(placement: Placement, operand: Node, user: Node) -> None:
    source = source_of(operand)
    if source in placement.outputs or not _is_float(source) or source.op == "get_attr":
        return
    # What a float operation made is quantized where it is made, for all of its users; a softmax reads it as it is.
    if entry_of(user).kind != "softmax" or source.op == "placeholder":
        placement.outputs[source] = None


def _quantize_result(placement: Placement, node: Node, varying: set[Node]) -> None:
    tail = node
    while len(tail.users) == 1 and entry_of(next(iter(tail.users))).limits is not None:
        tail = next(iter(tail.users))
    leaves = _only_feeds_output(node, varying) or feeds_recurrence(node)
    if entry_of(node).float_output and tail is node and leaves:
        return
    placement.outputs[tail] = None


def only_joins(node: Node, varying: set[Node]) -> bool:
    """Whether a node concatenates values that no integer kernel reads any more on their way out of the network."""
    if entry_of(node).kind != "cat":
        return False
    queue, seen = [node], {node}
    while queue:
        for user in queue.pop().users:
            joins = entry_of(user).kind == "cat" or moves_only(user)
            if not joins and _is_tensor_operation(user, varying):
                return False
            if user not in seen:
                seen.add(user)
                queue.append(user)
    return True


def _only_feeds_output(node: Node, varying: set[Node]) -> bool:
    return all(
        user.op == "output" or (moves_only(user) and _only_feeds_output(user, varying)) or only_joins(user, varying)
        for user in node.users
    )
