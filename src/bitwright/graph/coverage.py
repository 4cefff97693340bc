"""What a network computes: its multiplications with the sites of their operands, and what stays in float.

Multiply-accumulates (MACs) are counted by one rule: each element of a product of tensors counts as many as it adds up,
whatever the operands are: weights, or two activations as in attention, where every pair of a query and a key counts,
masked or not, and so does every step of a recurrent layer, the first with its zero state among them. Elementwise
operations, softmax, norms, pooling and lookups count none. That is half of what
``torch.utils.flop_counter`` counts, which stands in for operations that the table does not know.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils.flop_counter import FlopCounterMode

from bitwright.graph.names import Names, attribute_at, layer_name
from bitwright.graph.operations import OPERATIONS, entry_of, kind_of, moves_only, source_of
from bitwright.graph.placement import only_joins, varying_values
from bitwright.graph.places import quantizer_at, site_behind, weight_at
from bitwright.graph.walk import Call
from bitwright.values import LeftOut, Operation

UNKNOWN = "Bitwright has no integer form of this operation"
CONSTANT = "one of its operands is made of constants alone, as an initial state is"
STACK = "its weight is a stack of matrices, one for each entry of a batch"
STATE = "runtimes keep the state of a recurrent layer in float from step to step"
UNPLACED = "the placement puts no site at one of its operands"
JOINED = "no integer kernel reads the result, so that what it joins need not share one grid"
PARAMETER = "of parameters, only weights of convolutions, matrix products and lookups are quantized"


class Observed:
    """What one run of a graph on some batch shows, with :meth:`note` as its hook.

    Attributes:
        shapes: of each tensor.
        unknown: multiply-accumulates of operations that the table does not know: by torch's own count or, for those of
            other packages, which it cannot look into, by the sizes of their weights.
    """

    def __init__(self) -> None:
        self.shapes: dict[Node, torch.Size] = {}
        self.unknown: dict[Node, int] = {}

    def note(self, call: Call) -> Any:
        """Make a call and note what it shows."""
        target = call.node.target
        if call.node.op != "call_function" or target in OPERATIONS or target is operator.getitem:
            result = call()
        else:
            with FlopCounterMode(display=False) as counter:
                result = call()
            self.unknown[call.node] = counter.get_total_flops() // 2 or _products(call, result)
        if isinstance(result, Tensor):
            self.shapes[call.node] = result.shape
        return result


def _products(call: Call, result: Any) -> int:
    """Multiply-accumulates of an operator of another package, in which torch counts nothing.

    If it reads a weight, (..., K, N) or (..., N, K), and gives values (..., N), each of these is taken for a sum of K
    products. So it is for grouped products, as in mixtures of experts.
    """
    target = call.node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace == "aten" or not isinstance(result, Tensor):
        return 0
    read = zip(call.node.args, call.args, strict=False)
    weights = [value for node, value in read if isinstance(node, Node) and node.op == "get_attr" and value.dim() > 1]
    sums = [
        sizes[1 - sizes.index(result.shape[-1])]
        for sizes in (list(weight.shape[-2:]) for weight in weights)
        if result.dim() and result.shape[-1] in sizes
    ]
    return result.numel() * max(sums, default=0)


def operations_of(
    module: GraphModule, observed: Observed, batch: int
) -> tuple[tuple[Operation, ...], tuple[LeftOut, ...]]:
    """The multiplications of a graph and what stays in float, in the order of execution."""
    names, operations, left_out = Names(), [], []
    varying, unread, shapes = varying_values(module), _float_parameters(module), observed.shapes
    for node in module.graph.nodes:
        entry, weights = entry_of(node), unread.pop(node, {})
        if entry.macs is not None:
            first, second = (node.args[position] for position in entry.factors)
            macs = entry.macs(shapes[node], shapes[first], shapes[second]) // batch
            stand = [site_behind(module, first), site_behind(module, second)]
            sites = [None if quantizer is None else quantizer.site.name for quantizer in stand]
            missing = [operand for operand, site in zip((first, second), sites, strict=True) if site is None]
            reason = _reason(node, missing, varying)
        elif observed.unknown.get(node):
            macs, sites, reason = observed.unknown[node] // batch, [None, None], UNKNOWN
        else:
            left_out += [LeftOut(name, kind_of(node), 0, count, PARAMETER) for name, count in weights.items()]
            if (
                node in varying
                and only_joins(node, varying)
                and not any(quantizer_at(module, user) for user in node.users)
            ):
                left_out.append(LeftOut(names.unique(layer_name(node)), kind_of(node), 0, 0, JOINED))
            continue
        name, kind = names.unique(layer_name(node)), kind_of(node)
        operations.append(Operation(name, kind, macs, *sites))
        if reason:
            left_out.append(LeftOut(name, kind, macs, sum(weights.values()), reason))
    return tuple(operations), tuple(left_out)


def _reason(node: Node, missing: list[Node], varying: set[Node]) -> str:
    """Why some operands of a multiplication have no site; empty where none is missing."""
    role = entry_of(node).layer
    if role is not None and role.recurrent and missing == [node.args[role.input]]:
        return STATE
    sources = [source_of(operand) for operand in missing]
    if any(source.op == "get_attr" for source in sources) and role is None:
        return STACK
    if any(source.op != "get_attr" and source not in varying for source in sources):
        return CONSTANT
    return UNPLACED if sources else ""


def _float_parameters(module: GraphModule) -> dict[Node, dict[str, int]]:
    """Operation -> parameters with several dimensions that it reads in float, first of all operations, and their sizes.

    Parameters that have a site anywhere are left out.
    """
    sizes = {id(p): p.numel() for p in module.parameters() if sum(size > 1 for size in p.shape) > 1}
    readers: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        tensor = id(attribute_at(module, str(node.target)))
        if any(weight_at(module, user) is not None for user in node.users):
            sizes.pop(tensor, None)
        for reader in _readers(node):
            readers.setdefault(reader, []).append(node)
    found: dict[Node, dict[str, int]] = {}
    for reader in module.graph.nodes:
        for node in readers.get(reader, []):
            count = sizes.pop(id(attribute_at(module, str(node.target))), None)
            if count is not None:
                found.setdefault(reader, {})[str(node.target)] = count
    return found


def _readers(node: Node) -> list[Node]:
    """The operations that read a value, behind operations that only move it."""
    return [reader for user in node.users for reader in (_readers(user) if moves_only(user) else [user])]
