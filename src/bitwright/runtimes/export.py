"""ONNX files: from a graph and its policy to a file that runtimes execute with the same predictions."""

from __future__ import annotations

import json
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from bitwright.errors import ExportError, InvalidInput, first_line, nearest
from bitwright.graph.graph import Graph
from bitwright.runtimes import engines
from bitwright.runtimes.activations import insert_activation
from bitwright.runtimes.builder import Builder, replace
from bitwright.runtimes.dynamic import use_integer_products
from bitwright.runtimes.float_products import unpack_when_loaded
from bitwright.runtimes.guards import keep_float_weights, keep_softmax_exact
from bitwright.runtimes.packed import use_packed_products
from bitwright.runtimes.recurrent import insert_recurrences
from bitwright.runtimes.runtime import ExportResult
from bitwright.runtimes.trace import DOMAIN, Marked, mark
from bitwright.runtimes.translate import translate
from bitwright.runtimes.weights import insert_bias, insert_weight

STORAGES: tuple[str, ...] = ("smallest", "int8", "packed")
_LARGEST_FILE = 2**31 - 2**20  # protobuf holds 2 GiB; a mebibyte is left for the structure


def write(graph: Graph, path: Path, storage: str) -> ExportResult:
    """Write a graph under the current policy as an ONNX file.

    Weights are stored as integers of the smallest type that holds them, activations pass through QuantizeLinear and
    DequantizeLinear, biases are int32 as integer kernels need them.

    Raises:
        InvalidInput: an unknown storage.
        MissingExtra: the packages of the extra ``onnx`` are not installed.
        ExportError: an operation has no equivalent in the format, or the file would be too large for it.
        OSError: the file cannot be written.
    """
    if storage not in STORAGES:
        raise InvalidInput(f"storage must be one of {', '.join(STORAGES)}, got '{storage}'{nearest(storage, STORAGES)}")
    engines.require_exporter()
    marked = mark(graph)
    model = translate(marked, graph.example_inputs, graph.calling)
    float_bytes = _float_size(model)
    scales = _insert_sites(model, marked, storage)
    scales = {
        "bitwright": "scales",
        "version": 1,
        "graph": graph.graph_hash,
        "policy": {"name": graph.policy.name, "bits": dict(graph.policy.bits)},
        **scales,
    }
    _describe(model, graph)
    notes = _notes(scales)
    data = _serialized(model)
    path.write_bytes(data)
    return ExportResult(path, len(data), float_bytes, notes, scales)


def scales_json(result: ExportResult) -> str:
    """The policy and everything that was stored with it, as JSON: one site a line.

    Per site: ``kind``, ``bits``, ``dtype`` (ONNX type), ``low`` and ``high`` (smallest and largest integer), ``scale``
    (one number, one for each channel along ``axis``, or a list for each output channel with one for each group of
    ``group_size`` inputs) and ``zero_point``, both null where they are made from each tensor (``dynamic``); a real
    number is (integer - zero_point) * scale. Biases are int32.
    """
    lines = []
    for key, value in result.scales.items():
        if key in ("sites", "biases") and value:
            body = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            lines.append(f'  "{key}": {{\n{body}\n  }}')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _insert_sites(model: Any, marked: Marked, storage: str) -> dict[str, Any]:
    """Replace every marker by integers."""
    builder = Builder(model)
    sites: dict[str, Any] = {}
    biases: dict[str, Any] = {}
    for marker in _markers(model):
        label = marker.attributes["label"].as_string()
        if label in marked.weights:
            quantizer = marked.weights[label]
            sites[quantizer.site.name] = insert_weight(builder, marker, quantizer, storage)
        elif label in marked.biases:
            bias_quantizer, bias = marked.biases[label]
            biases[bias_quantizer.name] = insert_bias(builder, marker, bias_quantizer, bias)
        else:
            activation = marked.activations[label]
            sites[activation.site.name] = insert_activation(builder, marker, activation)
    insert_recurrences(builder)
    use_integer_products(builder)
    if storage == "packed":
        use_packed_products(builder)
    unpack_when_loaded(builder)
    keep_float_weights(builder)
    keep_softmax_exact(builder)
    builder.tidy()
    return {"sites": sites, "biases": biases}


def _markers(model: Any) -> list[Any]:
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type == "Site"]


def native_bits(dtype: str) -> int:
    """Bits of an ONNX integer type, e.g. 4 of ``"INT4"``."""
    return int(dtype.removeprefix("U").removeprefix("INT"))


def _describe(model: Any, graph: Graph) -> None:
    version = metadata.version("bitwright")
    model.producer_name, model.producer_version = "bitwright", version
    model.metadata_props.update(
        {
            "bitwright.version": version,
            "bitwright.graph": graph.graph_hash,
            "bitwright.policy": graph.policy.to_json(),
            "bitwright.inputs": json.dumps(graph.calling.names),
        }
    )


def _float_size(model: Any) -> int:
    """Bytes of the same model without sites."""
    ir = engines.onnx_ir()
    tensors = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if tensors > _LARGEST_FILE:
        return int(tensors)
    copied = ir.from_proto(ir.to_proto(model))
    for marker in _markers(copied):
        replace(marker.outputs[0], marker.inputs[0])
    builder = Builder(copied)
    insert_recurrences(builder)
    builder.tidy()
    proto = ir.to_proto(copied)
    del proto.graph.value_info[:]
    return int(proto.ByteSize())


def _serialized(model: Any) -> bytes:
    onnx, ir = engines.onnx(), engines.onnx_ir()
    tensors = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if tensors > _LARGEST_FILE:
        raise ExportError(
            f"the exported file would take {tensors / 2**30:.1f} GiB, and an ONNX file holds at most 2; "
            "quantize more of the weights, or to fewer bits"
        )
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # runtimes infer it, and it would be a tenth of a small file
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ExportError(
            f"the exported model is not valid ONNX: {first_line(error)}; please report this with the model"
        ) from error
    return bytes(proto.SerializeToString())


def _notes(scales: dict[str, Any]) -> tuple[str, ...]:
    """One sentence for each group of sites whose width the runtime has no type for."""
    groups: Counter[tuple[str, int, str, int, int]] = Counter()
    for entry in scales["sites"].values():
        if entry["bits"] != native_bits(entry["dtype"]):
            groups[entry["kind"], entry["bits"], entry["dtype"], entry["low"], entry["high"]] += 1
    sentences = [
        f"{count} {kind} {'site' if count == 1 else 'sites'} at {bits} bits {'is' if count == 1 else 'are'} stored as "
        f"{dtype} with the range {low}..{high}"
        for (kind, bits, dtype, low, high), count in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1]))
    ]
    saturated = [name for name, entry in scales["biases"].items() if entry["saturated"]]
    if saturated:
        sentences.append(
            f"{len(saturated)} {'bias does' if len(saturated) == 1 else 'biases do'} not fit into int32 in steps of "
            f"input step x weight step and {'gets' if len(saturated) == 1 else 'get'} larger ones, in the simulation "
            f"too: {', '.join(saturated)}"
        )
    return tuple(sentences)
