"""From a marked graph to an ONNX model in memory, with names that a person recognizes."""

from __future__ import annotations

import ast
import re
from typing import Any

import torch

from bitwright.errors import ExportError
from bitwright.graph.calling import Calling
from bitwright.graph.names import Names
from bitwright.graph.pt2e import quiet
from bitwright.runtimes import engines
from bitwright.runtimes.recurrent import RECURRENCES
from bitwright.runtimes.trace import MARKERS, Marked

OPSET = 21
_SCOPES = "pkg.torch.onnx.name_scopes"


def translate(marked: Marked, example_inputs: tuple[Any, ...], calling: Calling) -> Any:
    """An ``onnx_ir.Model`` with free batch size; sites are nodes of the domain ``bitwright``."""
    engines.require_exporter()
    batch = torch.export.Dim("batch", min=1)
    try:
        with quiet(), torch.no_grad():
            shapes = tuple(calling.sizes(batch, torch.export.Dim.DYNAMIC, example_inputs))
            program = torch.export.export(marked.module, example_inputs, dynamic_shapes=shapes, strict=False)
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, optimize=True)
    except Exception as error:
        raise ExportError(_reason(error)) from error
    assert exported is not None
    model = exported.model
    if model.opset_imports.get("") != OPSET:
        raise ExportError(
            f"the model could not be brought to ONNX opset {OPSET} (it is at {model.opset_imports.get('')}): one of "
            "its operations has no version there; upgrade onnx and onnxscript"
        )
    _rename(model, calling)
    _pool_globally(model)
    return model


def _reason(error: BaseException) -> str:
    """One line: the operation that stopped the translation, and the way out."""
    text = []
    cause: BaseException | None = error
    while cause is not None:
        text.append(str(cause))
        cause = cause.__cause__
    missing = re.search(
        r"No (?:ONNX function|decompositions) found for.*?([\w:]+\.\w+(?:\.\w+)?)'", " ".join(text), re.S
    )
    if missing:
        name = missing.group(1)
        return f"the operation '{name}' has no ONNX equivalent; replace it in the model by operations that have one"
    lines = [line.strip() for line in text[-1].splitlines() if line.strip()]
    return f"the graph cannot be written as ONNX: {lines[0] if lines else type(error).__name__}"


def _module_of(node: Any) -> str:
    """The user's module that a node belongs to, e.g. ``layer1.0.conv1``."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (SyntaxError, ValueError):
        return ""
    own = tuple(f"{holder}." for holder in (MARKERS, RECURRENCES))
    modules = [str(scope) for scope in scopes[:-1] if scope and not str(scope).startswith(own)]
    return modules[-1] if modules else ""


def _rename(model: Any, calling: Calling) -> None:
    """Name nodes after modules, free dimensions, and outputs ``output``; drop the exporter's own notes."""
    ir = engines.onnx_ir()
    names, values = Names(), Names()
    graph = model.graph
    for node in graph.all_nodes():
        module = _module_of(node)
        node.name = names.unique(f"{module}/{node.op_type}" if module else node.op_type)
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            # Runtimes name what they make of a node after its output.
            value.name = node.name if len(node.outputs) == 1 else values.unique(f"{node.name}.output")
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    batch = next((str(value.shape[0]) for value in graph.inputs if value.shape), "")
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None:
            free = {str(size) for size in value.shape if not isinstance(size, int)} - {batch}
            lengths = {size: f"length_{size}" for size in free} if calling.lengths else {}
            sizes = [size if isinstance(size, int) else lengths.get(str(size), "batch") for size in value.shape]
            value.shape = ir.Shape(sizes)
    taken = {value.name for value in graph.inputs}
    for position, value in enumerate(graph.outputs):
        if value.name not in taken and value.producer() is not None:
            value.name = "output" if len(graph.outputs) == 1 else f"output_{position}"
    graph.name = "bitwright"
    graph.doc_string = None
    graph.metadata_props.clear()
    model.metadata_props.clear()


def _pool_globally(model: Any) -> None:
    """Write a mean over all positions as GlobalAveragePool, for which runtimes have an integer kernel."""
    ir = engines.onnx_ir()
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[0].shape is None:
            continue
        axes = ir.convenience.get_const_tensor(node.inputs[1])
        rank = len(node.inputs[0].shape)
        kept = node.attributes.get("keepdims")
        if axes is None or rank not in (3, 4, 5) or (kept is not None and kept.as_int() == 0):
            continue
        if sorted(int(a) % rank for a in axes.numpy().reshape(-1)) == list(range(2, rank)):
            node.resize_inputs(1)
            node.op_type = "GlobalAveragePool"
            node.attributes.clear()
            node.name = node.name.replace("ReduceMean", "GlobalAveragePool")
