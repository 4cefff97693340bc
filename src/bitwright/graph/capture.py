"""From a PyTorch model to a graph with sites: export, place, replace observers by quantizers."""

from __future__ import annotations

import copy
import hashlib
import inspect
import operator
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from bitwright.errors import CaptureError, InvalidData, InvalidInput, first_line
from bitwright.graph import pt2e
from bitwright.graph.constants import fold_computed_weights
from bitwright.graph.coverage import Observed, operations_of
from bitwright.graph.decompositions import decompose
from bitwright.graph.graph import Graph
from bitwright.graph.lookups import look_up_bags
from bitwright.graph.names import Names, activation_name, attribute_at, module_path
from bitwright.graph.operations import argument, bias_of, entry_of, kind_of
from bitwright.graph.places import BIASES, SITES, site_behind
from bitwright.graph.symbols import batch_symbols, shape_of_one
from bitwright.graph.walk import Walk
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.values import Site, Sites

Inputs = tuple[Any, ...]

_DIFFER_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RNNBase)


def capture(model: nn.Module, example_inputs: Any, quantizer: Any = None) -> Graph:
    """Trace a model and put a quantizer, for now in float, at each of its sites.

    The model itself is not touched: the graph holds its own copy of the weights.

    Args:
        model: in evaluation mode. Also an ``ExportedProgram`` that was exported with a free batch size.
        example_inputs: one tensor, or a tuple of the model's positional inputs; the first dimension is the batch.
        quantizer: where the sites go: None for Bitwright's default (:func:`edge_quantizer`), a name
            (``bitwright sites --help`` lists them), or any torchao PT2E ``Quantizer``.

    Returns:
        A graph that computes exactly what the model computes until a policy is applied.

    Raises:
        InvalidInput: the model is in training mode or holds NaN, or the inputs are unusable.
        CaptureError: torch.export stopped; the message names the module and line.
    """
    inputs = _checked_inputs(model, example_inputs)
    placer = pt2e.edge_quantizer() if quantizer is None else quantizer
    if isinstance(placer, str):
        placer = pt2e.named_quantizer(placer)
    module, expected = _export(model, inputs)
    module = pt2e.prepare(module, placer)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    _drop_guards(module)
    found = Observed()
    with torch.no_grad():
        outputs = Walk(module)(inputs, dict.fromkeys(module.graph.nodes, found.note))
    if expected is not None and not _same(expected, outputs):
        raise CaptureError(
            "the captured graph does not compute what the model computes; usual way out: take randomness and "
            "in-place changes of tensors (x[...] = y, x.add_(y)) out of its forward"
        )
    return _with_sites(module, found, inputs, getattr(placer, "bitwright_group_size", None))


def _checked_inputs(model: Any, example_inputs: Any) -> Inputs:
    if isinstance(model, nn.Module):
        for path, module in model.named_modules():
            if module is model and module.training or isinstance(module, _DIFFER_IN_TRAINING) and module.training:
                subject = f"module '{path}'" if path else "the model"
                raise InvalidInput(
                    f"{subject} is in training mode; call model.eval() first, "
                    "or dropout and batch norm change its outputs"
                )
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
                raise InvalidInput(
                    f"the weight '{name}' holds NaN or infinite values; load a checkpoint that is finite"
                )
        for name, buffer in model.named_buffers():  # an attention mask may be infinite
            if buffer.is_floating_point() and bool(torch.isnan(buffer).any()):
                raise InvalidInput(f"the buffer '{name}' holds NaN; load a checkpoint that is finite")
    elif not isinstance(model, torch.export.ExportedProgram):
        raise InvalidInput(f"model must be a torch.nn.Module or an ExportedProgram, got {type(model).__name__}")
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        raise InvalidInput("example_inputs must be a tensor or a tuple of tensors, one for each positional input")
    if any(value.dim() == 0 or value.shape[0] == 0 for value in inputs):
        raise InvalidData("example_inputs need a batch dimension with at least one sample, got an empty one")
    # A batch of one would be taken for a constant by torch.export.
    inputs = tuple(torch.cat([v, v]) if v.shape[0] == 1 else v for v in inputs)
    device = next(iter(model.parameters()), inputs[0]).device if isinstance(model, nn.Module) else inputs[0].device
    return tuple(value.to(device) for value in inputs)


def _export(model: Any, inputs: Inputs) -> tuple[GraphModule, Any]:
    """The graph, and what the model puts out for the inputs (None for an exported program)."""
    expected = None
    if isinstance(model, torch.export.ExportedProgram):
        program = model
        _check_free_batch(program)
    else:
        try:
            with torch.no_grad():
                expected = model(*(value.clone() for value in inputs))
        except Exception as error:
            shapes = ", ".join(str(tuple(v.shape)) for v in inputs)
            raise InvalidInput(
                f"the model does not run on example_inputs of shape {shapes}: {first_line(error)}"
                f"{_other_precision(model, inputs)}"
            ) from error
        batch = torch.export.Dim("batch", min=1)
        dynamic: tuple[Any, ...] = tuple({0: batch} for _ in inputs)
        kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL in kinds:  # forward(self, *inputs): their shapes are one tuple
            first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
            dynamic = (*dynamic[:first], dynamic[first:])
        try:
            with pt2e.quiet(), torch.no_grad():
                program = torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            raise CaptureError(_capture_message(model, error)) from error
    with pt2e.quiet():
        program = decompose(program)
        if _changes_views(program.graph):
            program = program.run_decompositions({})  # makes everything functional
        module = program.module()
        _without_mutation(module)
        module = copy.deepcopy(module)
        look_up_bags(module)
        fold_computed_weights(module)
        return module, expected


def _other_precision(model: nn.Module, inputs: Inputs) -> str:
    """A hint where the model's weights are of another precision than its inputs."""
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()})
    given = sorted({str(v.dtype).removeprefix("torch.") for v in inputs if v.is_floating_point()})
    if not kinds or not given or kinds == given:
        return ""
    return f"; the model is in {' and '.join(kinds)}, the inputs are in {' and '.join(given)}: return model.float()"


def _check_free_batch(program: torch.export.ExportedProgram) -> None:
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" and node.name in wanted else None
        if isinstance(value, Tensor) and value.dim() and not isinstance(value.shape[0], torch.SymInt):
            raise CaptureError(
                f"the exported program fixes the batch size of '{node.name}' to {value.shape[0]}; "
                "export it with dynamic_shapes=({0: torch.export.Dim('batch', min=1)},)"
            )


def _same(expected: Any, found: Any) -> bool:
    """Whether two outputs are equal but for the rounding that folded batch norms bring."""
    one, two = ([v for v in tree_leaves(outputs) if isinstance(v, Tensor)] for outputs in (expected, found))
    if [v.shape for v in one] != [v.shape for v in two]:
        return False
    for a, b in zip(one, two, strict=True):
        if not a.is_floating_point():  # indices of largest values may differ where two are nearly equal
            continue
        size = float(a[torch.isfinite(a)].abs().max()) if a.numel() and bool(torch.isfinite(a).any()) else 0.0
        if not torch.allclose(a.double(), b.double(), rtol=1e-2, atol=1e-3 * size + 1e-6, equal_nan=True):
            return False
    return True


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


def _capture_message(model: nn.Module, error: BaseException) -> str:
    """One line: where torch.export stopped, and the usual ways out."""
    text = str(error)
    where = ""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno, trace.tb_frame.f_locals.get("self")))
        trace = trace.tb_next
    mentioned = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    frames_in_model = [f for f in frames if isinstance(f[2], nn.Module) and not _inside_torch(f[0])]
    if frames_in_model:
        file, line, module = frames_in_model[-1]
        path = next((name for name, child in model.named_modules() if child is module), "") or "the model itself"
        where = f" in module '{path}' ({type(module).__name__}) at {file}:{line}"
    elif user := [m for m in mentioned if not _inside_torch(m[0])]:
        where = f" at {user[-1][0]}:{user[-1][1]}"
    reason = first_line(error)
    hint = "write the branch or loop without Python control flow on tensor values (torch.where, torch.cond)"
    if "batch" in text and ("specializ" in text or "Constraints violated" in text):
        hint = "the code fixes the batch size: use x.shape[0] or -1 in view/reshape instead of a number"
    elif "unsupported" in text.lower() or "not supported" in text.lower():
        hint = "replace the unsupported call, or register it as a torch.library custom operator"
    return (
        f"torch.export stopped{where}: {reason}; usual way out: {hint}; or pass a model that is exported already (.pt2)"
    )


def _inside_torch(file: str) -> bool:
    return any(
        part in file for part in ("/torch/", "/torchao/", "<eval_with_key>", "/contextlib.py", "/bitwright/graph/")
    )


def _drop_guards(module: GraphModule) -> None:
    """Remove torch.export's input checks; the graph has its own, with a clearer message."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _with_sites(module: GraphModule, found: Observed, inputs: Inputs, group_size: int | None) -> Graph:
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
                user = next(iter(node.users), node)
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
                    names.unique(activation_name(source)),
                    "activation",
                    shape,
                    scheme,
                    module_path(source)[0],
                    "input" if source.op == "placeholder" else kind_of(source),
                )
                quantizer = ActivationQuantizer(site)
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
    return Graph(module, sites, table, tuple(inputs))


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
        inputs = site_behind(module, node.args[role.input])
        weight = site_behind(module, node.args[role.weight])
        grouped = role.transposed and argument(node, role.arguments["groups"], "groups", 1) != 1
        if bias is None or bias.op != "get_attr" or grouped or inputs is None or weight is None:
            continue
        if (inputs.site.kind, weight.site.kind) == ("activation", "weight"):
            label = f"bias_{len(list(holder.children()))}"
            holder.add_module(label, BiasQuantizer(str(bias.target), table, inputs.site.name, weight.site.name))
            with module.graph.inserting_before(node):
                rounded = module.graph.call_module(f"{BIASES}.{label}", (bias,))
            rounded.meta = dict(bias.meta)
            node.replace_input_with(bias, rounded)


def _hash(module: GraphModule) -> str:
    """Identifies structure, float weights and, of several outputs, which is called what; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    outputs = str(module.graph._codegen.pytree_info.out_spec)  # type: ignore[attr-defined]
    if outputs != "*":
        digest.update(outputs.encode())
    for node in module.graph.nodes:
        digest.update(f"{node.op}|{node.name}|{node.target}|{node.args}|{node.kwargs}\n".encode())
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
