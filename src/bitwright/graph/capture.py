"""From a PyTorch model to a graph with sites: export, place, replace observers by quantizers."""

from __future__ import annotations

import copy
import hashlib
import operator
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_flatten

from bitwright.arguments import checked
from bitwright.errors import CaptureError
from bitwright.graph import pt2e
from bitwright.graph.calling import Calling, free_axes, in_order
from bitwright.graph.constants import fold_computed_weights
from bitwright.graph.coverage import Observed, operations_of
from bitwright.graph.decompositions import decompose
from bitwright.graph.faithful import check_faithful
from bitwright.graph.graph import Graph
from bitwright.graph.lookups import look_up_bags
from bitwright.graph.model import prepared, run
from bitwright.graph.names import Names, attribute_at, layer_name, module_path
from bitwright.graph.obstacles import capture_message
from bitwright.graph.operations import argument, bias_of, entry_of, kind_of, rounds_bias, siblings
from bitwright.graph.outputs import keep_outputs, kept, register
from bitwright.graph.places import BIASES, SITES, site_behind
from bitwright.graph.recurrent import Whole, take_apart
from bitwright.graph.symbols import batch_symbols, shape_of_one, value_of
from bitwright.graph.walk import Walk
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.quantizers.dynamic import DynamicQuantizer
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.values import Site, Sites

Inputs = tuple[Any, ...]


@checked
def capture(
    model: nn.Module | torch.export.ExportedProgram,
    example_inputs: Any,
    quantizer: Any = None,
    returns: str | Iterable[str] = (),
    others: Iterable[Tensor | Sequence[Any] | Mapping[str, Any]] = (),
) -> Graph:
    """Trace a model and put a quantizer, for now in float, at each of its sites.

    The model itself is not touched: the graph holds its own copy of the weights.

    Args:
        model: in evaluation mode; in half precision it is captured in float32. Also an ``ExportedProgram`` that was
            exported with a free batch size.
        example_inputs: one tensor, a tuple of the model's positional inputs, or a dictionary: the named arguments of
            its forward, or the one dictionary that it takes. The first dimension is the batch. None, numbers and texts
            in a dictionary are arguments that stay the same. Entries called ``labels`` or ``targets`` are targets,
            unless the model does not run without them.
        quantizer: where the sites go: None for Bitwright's default (:func:`edge_quantizer`), a name
            (``bitwright sites --help`` lists them), or any torchao PT2E ``Quantizer``.
        returns: names of the outputs to keep, ``"logits"``; the others are left out, with what computes them alone.
            None named: all but single numbers for a whole batch, such as a loss.
        others: further examples, of other lengths than ``example_inputs``. Axes in which they differ may have any size
            afterwards; sites and costs are those of ``example_inputs``.

    Returns:
        A graph that computes exactly what the model computes until a policy is applied.

    Raises:
        InvalidInput: the model is in training mode or holds NaN, or the inputs are unusable.
        CaptureError: torch.export stopped; the message names the module and line. Or the graph's outputs differ from
            the model's by more than rounding in float32 explains (:mod:`bitwright.graph.faithful`). Or a quantizer of
            another package places no site at any weight.
    """
    source: Any
    source, examples = prepared(model, example_inputs)
    placer = pt2e.edge_quantizer() if quantizer is None else quantizer
    if isinstance(placer, str):
        placer = pt2e.named_quantizer(placer)
    exported = _export(source, examples, (returns,) if isinstance(returns, str) else tuple(returns), others)
    module, calling, inputs, expected = exported
    module = pt2e.prepare(module, placer)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    found = Observed()
    with torch.no_grad():
        outputs = Walk(module)(inputs, dict.fromkeys(module.graph.nodes, found.note))
        if expected is not None:
            check_faithful(source, calling, inputs, expected, outputs)
    graph = _with_sites(module, found, calling, inputs, getattr(placer, "bitwright_group_size", None))
    if not isinstance(quantizer, str | None) and graph.coverage.all_weights and not graph.sites.weights:
        raise CaptureError(
            f"the quantizer {type(quantizer).__name__} places no site at any weight of this network; set its global "
            "configuration, take the version of its package that belongs to this PyTorch, or one of Bitwright's "
            "placements: `bitwright settings quantizer` lists them"
        )
    for sentence in graph.coverage.slow():
        warnings.warn(sentence, stacklevel=2)
    return graph


class _Exported(NamedTuple):
    """A graph before it has sites.

    Attributes:
        module: the graph; its inputs are tensors in order.
        calling: how the model is called.
        inputs: the example, in order.
        expected: what the model puts out for it; None for an exported program.
    """

    module: GraphModule
    calling: Calling
    inputs: Inputs
    expected: Any


def _export(model: Any, examples: Any, returns: tuple[str, ...], others: Iterable[Any]) -> _Exported:
    expected = None
    if isinstance(model, torch.export.ExportedProgram):
        program = model
        _check_free_batch(program)
        calling = Calling(tuple(program.graph_signature.user_inputs))
        inputs = calling.arranged(examples)
    else:
        calling, inputs, expected = run(model, examples)
        register(expected)
        batch = torch.export.Dim("batch", min=1)
        args, kwargs = calling.arguments(inputs)
        calling = replace(calling, free=free_axes(inputs, [in_order(calling, other) for other in others]))
        shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        for value, sizes in zip(inputs, calling.sizes(batch, torch.export.Dim.DYNAMIC, inputs), strict=True):
            shapes[value] = sizes
        try:
            with pt2e.quiet(), torch.no_grad(), Whole():
                program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise CaptureError(capture_message(model, calling, inputs, error)) from error
    with pt2e.quiet():
        program = decompose(program)
        if _changes_views(program.graph):
            program = program.run_decompositions({})  # makes everything functional
        module = program.module()
    _drop_guards(module)
    calling = _with_inputs_in_order(module, calling)
    calling = replace(calling, outputs=keep_outputs(module, returns), returns=returns)
    expected = None if expected is None else kept(expected, calling.outputs)
    with pt2e.quiet():
        _without_mutation(module)
        module = copy.deepcopy(module)
        look_up_bags(module)
        take_apart(module)
        fold_computed_weights(module)
        return _Exported(module, calling, inputs, expected)


def _with_inputs_in_order(module: GraphModule, calling: Calling) -> Calling:
    """Make the graph take tensors in order, whatever structure they had; how the model is called, with their names."""
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node in nodes:
        if value_of(node) is None and not node.users:  # an argument that is the same in every call
            module.graph.erase_node(node)
    nodes = [node for node in nodes if value_of(node) is not None]
    if calling.how == "dictionary":
        for node, name in zip(nodes, calling.names, strict=True):
            node._rename(re.sub(r"\W", "_", name))
            node.target = node.name
    names = tuple(str(node.target) for node in nodes)
    _, spec = tree_flatten((names, {}))
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    module.graph._codegen.pytree_info = info._replace(orig_args=list(names), in_spec=spec)  # type: ignore[attr-defined]
    module._forward_pre_hooks.clear()  # they check the structure that the inputs had
    module.recompile()
    return calling if calling.how != "position" else replace(calling, names=names)


def _check_free_batch(program: torch.export.ExportedProgram) -> None:
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" and node.name in wanted else None
        if isinstance(value, Tensor) and value.dim() and not isinstance(value.shape[0], torch.SymInt):
            raise CaptureError(
                f"the exported program fixes the batch size of '{node.name}' to {value.shape[0]}; "
                "export it with dynamic_shapes=({0: torch.export.Dim('batch', min=1)},)"
            )


def _changes_views(graph: torch.fx.Graph) -> bool:
    """Whether an in-place operation changes a tensor that another value of the graph shares memory with."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _aliases(node) != "writes" or not node.args or not isinstance(node.args[0], Node):
            continue
        mutated = node.args[0]
        if _aliases(mutated) == "views":
            return True
        if any(_aliases(user) == "views" and position[user] < position[node] for user in mutated.users):
            return True
    return False


def _aliases(node: Node) -> str:
    """``"writes"`` for an in-place operation, ``"views"`` if the result shares memory with an argument, else ``""``."""
    if node.target is operator.getitem:
        return "views"
    if not isinstance(node.target, torch._ops.OpOverload):
        return ""
    schema = node.target._schema
    if any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
        return "writes"
    return "views" if any(returned.alias_info is not None for returned in schema.returns) else ""


def _without_mutation(module: GraphModule) -> None:
    """Replace in-place operations (``relu_``) by their functional twins, so that each value keeps its own tensor."""
    seen: list[Node] = []
    for node in module.graph.nodes:
        seen.append(node)
        name = getattr(node.target, "__name__", "")
        base, _, overload = name.partition(".")
        if node.op != "call_function" or not base.endswith("_") or base.endswith("__") or not node.args:
            continue
        functional = getattr(torch.ops.aten, base[:-1], None)
        mutated = node.args[0]
        if functional is None or not hasattr(functional, overload) or not isinstance(mutated, Node):
            continue
        node.target = getattr(functional, overload)
        before = set(seen)

        def comes_later(user: Node, before: set[Node] = before) -> bool:
            return user not in before

        mutated.replace_all_uses_with(node, delete_user_cb=comes_later)
    module.recompile()


def _drop_guards(module: GraphModule) -> None:
    """Remove torch.export's input checks; the graph has its own, with a clearer message."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _with_sites(
    module: GraphModule, found: Observed, calling: Calling, inputs: Inputs, group_size: int | None
) -> Graph:
    names = Names()
    batch = inputs[0].shape[0]
    symbols = batch_symbols(module)
    by_observer: dict[int, Quantizer] = {}
    site_nodes: dict[Node, Quantizer] = {}
    holder, table = nn.Module(), dict[str, Quantizer]()
    for node, observer in pt2e.observer_nodes(module):
        source = node.args[0]
        assert isinstance(source, Node)
        is_weight = source.op == "get_attr"
        quantizer = by_observer.get(id(observer))
        if quantizer is None:
            scheme = pt2e.scheme_of(observer, is_weight, group_size)
            user = next(iter(node.users), node)
            if is_weight and scheme is not None and not scheme.symmetric and entry_of(user).weight is None:
                scheme = None  # a constant that is added or multiplied with, as if it were an activation
            if scheme is None:
                node.replace_all_uses_with(source)
                module.graph.erase_node(node)
                continue
            if is_weight and not scheme.symmetric:
                raise CaptureError(
                    f"the quantizer asks for asymmetric weights at '{source.target}', which are not simulated; "
                    "use its symmetric configuration"
                )
            if is_weight:
                weight = attribute_at(module, str(source.target))
                site = Site(
                    names.unique(str(source.target)),
                    "weight",
                    tuple(weight.shape),
                    scheme,
                    str(source.target).rpartition(".")[0],
                    kind_of(user),
                )
                quantizer = WeightQuantizer(site, weight)
            else:
                shape = shape_of_one(source, found.shapes[source], symbols)
                site = Site(
                    names.unique(layer_name(source)),
                    "activation",
                    shape,
                    scheme,
                    module_path(source)[0],
                    "input" if source.op == "placeholder" else kind_of(source),
                )
                quantizer = DynamicQuantizer(site) if scheme.dynamic else ActivationQuantizer(site)
            by_observer[id(observer)] = quantizer
            holder.add_module(f"site_{len(by_observer) - 1}", quantizer)
            table[site.name] = quantizer
        site_nodes[node] = quantizer
    labels = {id(child): name for name, child in holder.named_children()}
    observers = {str(node.target) for node in site_nodes}
    module.add_module(SITES, holder)
    for node, quantizer in site_nodes.items():
        node.target = f"{SITES}.{labels[id(quantizer)]}"
    for target in observers:
        module.delete_submodule(target)
    operations, left_out = operations_of(module, found, batch)
    first = _first_uses(module, site_nodes)
    for quantizer in sorted(by_observer.values(), key=lambda q: first[id(q)]):
        table[quantizer.site.name] = table.pop(quantizer.site.name)
    _round_biases(module, table)
    module.graph.lint()
    module.recompile()
    covered = {id(q.weight) for q in table.values() if q.site.kind == "weight"}
    other = sum(p.numel() for p in module.parameters() if id(p) not in covered)
    sites = Sites(tuple(q.site for q in table.values()), operations, _hash(module), other, left_out)
    return Graph(module, sites, table, tuple(inputs), calling)


def _first_uses(module: GraphModule, site_nodes: dict[Node, Quantizer]) -> dict[int, tuple[int, int]]:
    """Sort keys, by id: when the operation that reads the site runs (activations: when the value is made)."""
    positions = {node: i for i, node in enumerate(module.graph.nodes)}
    found: dict[int, tuple[int, int]] = {}
    for node, quantizer in site_nodes.items():
        if quantizer.site.kind == "weight":
            key = min((positions[user] for user in node.users), default=10**9), 0
        else:
            key = positions[node], 1
        found[id(quantizer)] = min(key, found.get(id(quantizer), key))
    return found


def _round_biases(module: GraphModule, table: dict[str, Quantizer]) -> None:
    holder = nn.Module()
    module.add_module(BIASES, holder)
    for node in list(module.graph.nodes):
        role = entry_of(node).layer
        if role is None:
            continue
        bias = bias_of(node)
        weight = site_behind(module, node.args[role.weight])
        rounds = rounds_bias(node)  # if not, repairs can correct it all the same
        inputs = site_behind(module, node.args[role.input]) if rounds else None
        grouped = role.transposed and argument(node, role.arguments["groups"], "groups", 1) != 1
        if bias is None or bias.op != "get_attr" or grouped or weight is None or (inputs is None and rounds):
            continue
        if weight.site.kind == "weight" and (inputs is None or inputs.site.kind == "activation"):
            label = f"bias_{len(list(holder.children()))}"
            source = None if inputs is None else inputs.site.name
            holder.add_module(label, BiasQuantizer(str(bias.target), table, source, weight.site.name))
            with module.graph.inserting_before(node):
                rounded = module.graph.call_module(f"{BIASES}.{label}", (bias,))
            rounded.meta = dict(bias.meta)
            for reader in siblings(node):
                reader.replace_input_with(bias, rounded)


def _hash(module: GraphModule) -> str:
    """Identifies structure, float weights and, of several outputs, which is called what; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    outputs = str(module.graph._codegen.pytree_info.out_spec)  # type: ignore[attr-defined]
    if outputs != "*":
        digest.update(outputs.encode())
    for node in module.graph.nodes:
        target = str(node.target).removeprefix("bitwright_")
        digest.update(f"{node.op}|{node.name}|{target}|{node.args}|{node.kwargs}\n".encode())
    tensors = (*module.named_parameters(), *module.named_buffers())
    return digest_with(digest, {name.removeprefix("bitwright_"): tensor for name, tensor in tensors})


def digest_with(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of what a digest holds and of tensors by name: their shapes, types and values."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
