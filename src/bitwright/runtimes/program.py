"""ExecuTorch programs: from a graph with the patterns of XNNPACK to the bytes of a ``.pte`` file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import ExportError, first_line
from bitwright.graph.calling import Calling
from bitwright.graph.graph import Graph
from bitwright.graph.names import module_path
from bitwright.runtimes import engines
from bitwright.runtimes.xnnpack import patterned

METADATA = "bitwright"
"""The method of a program that gives its metadata, as JSON."""
_BITS = {"INT4": 4, "INT8": 8, "INT16": 16}
_LENGTHS = 4
"""How many times the example's an axis of free size may be: ExecuTorch plans memory for the most there can be."""
_MOVING = (
    *("quantize", "dequantize", "getitem", "sym_size", "view", "expand", "permute", "slice", "select", "squeeze"),
    *("unsqueeze", "clone", "to_copy", "to_dim_order", "cat", "split", "constant_pad", "max_pool", "full", "embedding"),
    *("executorch_call_delegate", "alloc", "lift", "t_copy", "transpose", "unbind", "stack", "zeros", "arange"),
)
"""Beginnings of names of operations that lead from float to integers and back, or move values."""

_CLAMPS = ("relu", "hardtanh")
_INTEGERS = "IS_IMPLICIT_Q_DQ_TAG"
"""What XNNPACK's partitioner writes into ``meta`` of a dequantization that a kernel reads as the integers before it."""


@dataclass(frozen=True)
class Lowered:
    """A program.

    Attributes:
        data: the bytes of the file.
        notes: sentences on what is not stored or computed as the policy has it.
        scales: per site and per bias what is stored.
    """

    data: bytes
    notes: tuple[str, ...]
    scales: dict[str, Any]


def lowered(graph: Graph, batch: int) -> Lowered:
    """Write a graph under its present policy, with as much of it as XNNPACK takes.

    Args:
        graph: calibrated.
        batch: the most samples that run at once.

    Raises:
        MissingExtra: ExecuTorch is not installed.
        ExportError: an operation that it has no kernel for.
    """
    engines.executorch_library()
    with engines.loading_executorch():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    written = patterned(graph)
    try:
        with engines.silent(), torch.no_grad():
            program = _exported(written.module, graph.example_inputs, graph.calling, batch)
            # The check of the program would fix the batch size: it asks a size for its length (ExecuTorch 1.5,
            # exir/verification/arg_validator.py, line 129).
            config = EdgeCompileConfig(_check_ir_validity=False)
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                compile_config=config,
                constant_methods={METADATA: "{}"},
            )
            unfused = tuple(dict.fromkeys(_in_float(edge.exported_program().graph_module)))
            written_program = edge.to_executorch()
            _check_kernels(written_program.executorch_program)
            data = annotated(bytes(written_program.buffer), _about(graph, unfused))
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(_reason(error)) from error
    scales = {
        "bitwright": "scales",
        "version": 1,
        "graph": graph.graph_hash,
        "policy": {"name": graph.policy.name, "bits": dict(graph.policy.bits)},
        "sites": written.sites,
        "biases": written.biases,
    }
    return Lowered(data, _notes(written.sites), scales)


def annotated(data: bytes, entries: Mapping[str, str]) -> bytes:
    """The bytes of a program with further metadata, in place of entries of the same names.

    Raises:
        ExportError: it is no program that Bitwright wrote.
    """
    with engines.loading_executorch():
        from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary
    try:
        file = deserialize_pte_binary(data)
        (plan,) = (plan for plan in file.program.execution_plan if plan.name == METADATA)
        text = plan.values[plan.outputs[0]].val
        text.string_val = json.dumps({**json.loads(text.string_val), **entries})
        return bytes(serialize_pte_binary(file, extract_delegate_segments=True))
    except Exception as error:
        raise ExportError(f"this is no program that Bitwright wrote for ExecuTorch: {first_line(error)}") from error


def _exported(
    module: torch.nn.Module, inputs: tuple[Any, ...], calling: Calling, batch: int
) -> torch.export.ExportedProgram:
    """The program for at most this batch size.

    It is traced with the largest batch: where PyTorch treats small and large ones differently, as convolutions do, the
    size it was traced with would be the bound otherwise.
    """
    examples = tuple(value[:1].repeat(batch, *[1] * (value.dim() - 1)) for value in inputs)
    lengths = [value.shape[axis] for value, axes in zip(inputs, calling.free, strict=False) for axis in axes]
    free = torch.export.Dim.DYNAMIC(max=_LENGTHS * max(lengths, default=1))
    first = torch.export.Dim("batch", min=1, max=batch) if batch > 1 else None
    shapes = tuple(calling.sizes(first, free, inputs))
    return torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)


def _in_float(module: torch.fx.GraphModule) -> Iterable[str]:
    """The operations that compute in float, ``"layer1.0.conv1 (convolution)"``: ExecuTorch's own and XNNPACK's."""
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.users:
            inside = getattr(getattr(module, str(node.target), None), "original_module", None)
            if inside is not None:
                yield from _in_float(inside.graph_module)
        if node.op != "call_function" or not isinstance(node.meta.get("val"), (Tensor, tuple)):
            continue
        name = str(getattr(node.target, "__name__", node.target)).removeprefix("aten.").removeprefix("_")
        kind = name.partition(".")[0]
        if kind.startswith(_MOVING) or _reads_integers(node):
            continue
        if kind in _CLAMPS and _reads_integers(node.all_input_nodes[0]):  # one with the kernel in front
            continue
        if not any(_is_float(arg) for arg in (node, *node.all_input_nodes)):
            continue
        path, _ = module_path(node)
        yield f"{path} ({kind})" if path else kind


def _reads_integers(node: Node) -> bool:
    return any(value.meta.get(_INTEGERS) for value in node.all_input_nodes)


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _about(graph: Graph, unfused: tuple[str, ...]) -> dict[str, str]:
    return {
        "bitwright.version": metadata.version("bitwright"),
        "bitwright.graph": graph.graph_hash,
        "bitwright.policy": graph.policy.to_json(),
        "bitwright.inputs": json.dumps(graph.calling.names),
        "bitwright.unfused": json.dumps(unfused),
    }


def _check_kernels(program: Any) -> None:
    """Find out before a file is loaded that ExecuTorch has no kernel for an operation in it."""
    known = set(engines.executorch_library()._get_operator_names())
    for plan in program.execution_plan:
        for operator in plan.operators:
            name = f"{operator.name}.{operator.overload}".removesuffix(".")
            if name not in known:
                raise ExportError(
                    f"ExecuTorch has no kernel for the operation '{name}'; replace it in the model, or take the "
                    "runtime onnxruntime"
                )


def _reason(error: BaseException) -> str:
    missing = re.search(r"Missing out variants: \{(.*?)\}", str(error))
    what = f"it has no kernel for {missing.group(1)}" if missing else first_line(error)
    return f"ExecuTorch cannot take the graph: {what}; take the runtime onnxruntime"


def _notes(sites: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """One sentence for each group of sites that are stored otherwise than their policy says."""
    groups: Counter[tuple[str, int, str]] = Counter()
    for entry in sites.values():
        if _BITS.get(entry["dtype"]) != entry["bits"]:
            groups[entry["kind"], entry["bits"], entry["dtype"]] += 1
    return tuple(
        f"{count} {kind} {'site' if count == 1 else 'sites'} at {bits} bits {'is' if count == 1 else 'are'} stored as "
        f"{dtype} with the values of {bits} bits"
        for (kind, bits, dtype), count in sorted(groups.items())
    )
