"""Embedding bags whose bags are the rows of a matrix become a lookup and a sum, mean or maximum over each row.

That is what ``nn.EmbeddingBag`` makes of inputs of shape (batch, length). Bags of different lengths, given as one list
for the whole batch, are left as they are: a list has no axis for the samples.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from bitwright.graph.operations import aten, source_of

_SUM, _MEAN, _MAXIMUM = 0, 1, 2  # of PyTorch's ``mode``
_NAMES = ("weight", "indices", "offsets", "scale", "mode", "sparse", "per_sample_weights", "last", "padding_idx")


def look_up_bags(module: GraphModule) -> None:
    """Rewrite the embedding bags of an exported graph; every node keeps its ``val``."""
    for node in list(module.graph.nodes):
        if node.target == aten.embedding_bag.padding_idx:
            _rewrite(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _rewrite(module: GraphModule, node: Node) -> None:
    given: dict[str, Any] = {**dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}
    rows = _rows(given["indices"], given["offsets"])
    factors = given.get("per_sample_weights")
    factors = source_of(factors) if isinstance(factors, Node) else None
    mode, padding = given.get("mode", _SUM), given.get("padding_idx")
    padded = padding is not None and padding >= 0
    others = any(user.users for user in node.users if user.args[1] != 0)
    unlike = factors is not None and (rows is None or factors.meta["val"].shape != rows.meta["val"].shape)
    if rows is None or others or given.get("last") or unlike or (padded and mode == _MAXIMUM):
        return

    def apply(target: Any, *args: Any) -> Node:
        made: Node = module.graph.call_function(target, args)
        made.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
        fake = [a.meta["val"] if isinstance(a, Node) else a for a in args]
        made.meta["val"] = target(*fake)
        return made

    with module.graph.inserting_before(node):
        found = apply(aten.embedding.default, given["weight"], rows)
        hidden = apply(aten.unsqueeze.default, apply(aten.eq.Scalar, rows, padding), -1) if padded else None
        if factors is not None:
            found = apply(aten.mul.Tensor, found, apply(aten.unsqueeze.default, factors, -1))
        if hidden is not None:
            found = apply(aten.masked_fill.Scalar, found, hidden, 0.0)
        if mode == _MAXIMUM:
            result = apply(aten.amax.default, found, [1])
        elif mode == _MEAN and hidden is None:
            result = apply(aten.mean.dim, found, [1])
        else:
            result = apply(aten.sum.dim_IntList, found, [1])
            if hidden is not None and mode == _MEAN:
                count = apply(aten.sum.dim_IntList, apply(aten.logical_not.default, hidden), [1])
                count = apply(aten.clamp.default, count, 1)
                result = apply(aten.div.Tensor, result, count)
    for user in node.users:
        if user.args[1] == 0:
            user.replace_all_uses_with(result)


def _rows(indices: Node, offsets: Node) -> Node | None:
    """The matrix (batch, length) of whose rows the bags consist, or None."""
    source = source_of(indices)
    value = source.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() != 2 or offsets.target != aten.arange.start_step:
        return None
    length = value.shape[1]
    return source if isinstance(length, int) and offsets.args[0] == 0 and offsets.args[2] == length else None
