"""What torchao's folding of batch norms gets wrong, put right here.

It stops at grouped transposed convolutions; it folds where it must not: into a convolution whose output, or whose
weight, something else reads as well (DenseNet's first layer), which then reads the changed values; and a convolution
without a bias that runs several times (a network that compares two inputs) gets the norm's shift at its first use only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from bitwright.graph.names import attribute_at
from bitwright.graph.operations import argument, aten, entry_of


def fold_behind_grouped_transposed(module: GraphModule) -> None:
    """Fold them into weight and bias, in float64; the tensors of the caller's model are replaced, not changed."""
    for norm in [node for node in module.graph.nodes if entry_of(node).kind == "batch_norm"]:
        layer = norm.args[0]
        if isinstance(layer, Node) and _foldable(module, layer, norm):
            _fold(module, layer, norm)
    module.graph.eliminate_dead_code()
    module.recompile()


def norm_scales(module: GraphModule) -> dict[str, float]:
    """Path of a weight -> mean square of the scale (gamma) of the batch norm that reads its layer's output."""
    found = {}
    for norm in [node for node in module.graph.nodes if entry_of(node).kind == "batch_norm"]:
        layer, gamma = norm.args[0], _doubled(module, norm.args[1])
        if isinstance(layer, Node) and entry_of(layer).layer is not None and gamma is not None:
            weight = layer.args[1]
            if isinstance(weight, Node) and weight.op == "get_attr":
                found[str(weight.target)] = float(gamma.square().mean())
    return found


def keep_shared_layers(module: GraphModule) -> None:
    """Keep torchao from folding a batch norm into a layer that is not the batch norm's alone.

    A layer is its alone if nothing else reads the output, and behind every other use of the weight stands the same
    batch norm. An ``alias`` in front of any other batch norm hides the layer from torchao. A layer with several uses
    and no bias is given one of zeros, for torchao to fold the shift into.
    """
    for norm in [node for node in module.graph.nodes if entry_of(node).kind == "batch_norm"]:
        layer = norm.args[0]
        if not isinstance(layer, Node) or entry_of(layer).layer is None:
            continue
        if _alone(module, layer):
            _give_bias(module, layer, norm)
        else:
            with module.graph.inserting_before(norm):
                alias = module.graph.call_function(aten.alias.default, (layer,))
            alias.meta["val"] = layer.meta.get("val")  # and no module: no part of the layer's pattern
            norm.replace_input_with(layer, alias)
    module.recompile()


def _alone(module: GraphModule, layer: Node) -> bool:
    uses = _uses(module, layer)
    return bool(uses) and all(_behind(use) == _behind(layer) is not None for use in uses)


def _uses(module: GraphModule, layer: Node) -> list[Node]:
    """Whatever reads a layer's weight; nothing where it is computed."""
    weight = layer.args[1]
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return []
    same = (node for node in module.graph.nodes if node.op == "get_attr" and node.target == weight.target)
    return [user for node in same for user in node.users]


def _give_bias(module: GraphModule, layer: Node, norm: Node) -> None:
    """A bias of zeros for all uses of a layer, where there are several and it has none."""
    uses, mean = _uses(module, layer), norm.args[3]
    if (
        len(uses) < 2
        or not isinstance(mean, Node)
        or any(len(use.args) > 2 and use.args[2] is not None for use in uses)
    ):
        return
    zeros = torch.zeros_like(attribute_at(module, str(mean.target)))
    name = f"{layer.args[1]}_shared_bias"
    module.register_parameter(name, nn.Parameter(zeros, requires_grad=False))
    for use in uses:
        with module.graph.inserting_before(use):
            added = module.graph.get_attr(name)
        added.meta["val"] = mean.meta.get("val")
        use.args = (*use.args[:2], added, *use.args[3:])


def _behind(layer: Node) -> tuple[object, ...] | None:
    """The tensors of the batch norm that alone reads a layer's output, or None."""
    users = list(layer.users)
    if len(users) != 1 or entry_of(users[0]).kind != "batch_norm" or users[0].args[0] is not layer:
        return None
    return tuple(arg.target if isinstance(arg, Node) else arg for arg in users[0].args[1:])


def _foldable(module: GraphModule, layer: Node, norm: Node) -> bool:
    if _groups(layer) == 1:
        return False
    weight = layer.args[1]
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return False
    same = [node for node in module.graph.nodes if node.op == "get_attr" and node.target == weight.target]
    return len(layer.users) == 1 and norm.args[5] is False and len(same) == len(weight.users) == 1


def _groups(layer: Node) -> int:
    """Groups of a transposed convolution; 1 for other operations."""
    role = entry_of(layer).layer
    return int(argument(layer, role.arguments["groups"], "groups", 1)) if role is not None and role.transposed else 1


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    weight_node, groups = layer.args[1], _groups(layer)
    assert isinstance(weight_node, Node)
    weight = attribute_at(module, str(weight_node.target)).detach()
    gamma, beta, mean, variance = (_doubled(module, node) for node in norm.args[1:5])
    assert mean is not None
    assert variance is not None
    scale = (variance + float(str(norm.args[7]))).rsqrt()
    if gamma is not None:
        scale = scale * gamma
    bias = _doubled(module, layer.args[2])
    shift = ((bias if bias is not None else 0.0) - mean) * scale + (beta if beta is not None else 0.0)
    # Weights are (inputs, outputs of a group, ...): inputs of group g make outputs of group g.
    folded = weight.double().reshape(groups, -1, *weight.shape[1:]) * scale.reshape(
        groups, 1, -1, *[1] * (weight.dim() - 2)
    )
    target = str(weight_node.target)
    path, _, attribute = target.rpartition(".")
    setattr(module.get_submodule(path), attribute, nn.Parameter(folded.flatten(0, 1).to(weight.dtype)))
    name = f"{path or norm.name}.folded_bias".replace(".", "_")
    module.register_parameter(name, nn.Parameter(shift.to(weight.dtype)))
    with module.graph.inserting_before(layer):
        added = module.graph.get_attr(name)
    like = norm.args[3]
    added.meta["val"] = like.meta.get("val") if isinstance(like, Node) else None
    layer.args = (*layer.args[:2], added, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)


def _doubled(module: GraphModule, node: object) -> Tensor | None:
    return attribute_at(module, str(node.target)).detach().double() if isinstance(node, Node) else None
