"""From a graph and its policy to a PyTorch program with the patterns that XNNPACK makes integer kernels of.

XNNPACK computes a layer in integers where it reads 8-bit values with one step, has weights of 8 bits (of 4 where it is
a linear layer) and writes 8-bit values again, perhaps behind a clamp. So each site becomes a pair of a quantization and
a dequantization, one dequantization for each reader, and stands again behind operations that only move values. A layer
that is no such pattern gets its rounded weights in float, for XNNPACK's float kernels. (Dequantized in each run,
ExecuTorch 1.5 gives wrong values for linear layers: its partitioner takes integers for floats where both stand in one
module, partition/config/gemm_configs.py, find_partition_args.) Rows of a table are looked up as integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from bitwright.errors import ExportError
from bitwright.graph.graph import Graph
from bitwright.graph.operations import aten, entry_of, moves_only
from bitwright.numerics.affine import Affine, dequantized
from bitwright.quantizers.base import Quantizer
from bitwright.runtimes.trace import MARKERS, Marked, mark
from bitwright.runtimes.weights import weight_integers
from bitwright.values import Site

INT8, FLOAT = "INT8", "FLOAT"
INT4 = "INT4"


def stored_type(site: Site, bits: int) -> str:
    """What holds a weight: XNNPACK has 8 bits and, for linear layers with a step for each output, 4; else float32."""
    if bits > 8:
        return FLOAT
    return INT4 if bits <= 4 and site.operation == "linear" and site.scheme.granularity == "channel" else INT8


@dataclass(frozen=True)
class _Grid:
    """An activation's grid as signed integers, and the ends of those that the policy allows."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def limits(self) -> tuple[int, int]:
        """Of the type: of 8 bits, or of 16."""
        half = 1 << (7 if self.high - self.low < 256 else 15)
        return -half, half - 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.limits[1] == 127 else torch.int16

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.scale, self.zero_point, *self.limits, self.dtype

    @property
    def ends(self) -> tuple[float, float]:
        """The real numbers at the ends."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale


def _grid(quantizer: Quantizer) -> _Grid:
    assert quantizer.bits is not None
    if quantizer.dynamic:
        raise ExportError(
            f"site '{quantizer.site.name}' takes its range from each tensor as a whole, and XNNPACK from each row; "
            "capture the network with another placement, such as quantizer='xnnpack', or take the runtime onnxruntime"
        )
    affine = quantizer.grid(quantizer.bits)
    shift = 0 if affine.low < 0 else 1 << (7 if affine.high < 256 else 15)
    zero = int(affine.zero_point) - shift
    return _Grid(float(affine.scale), zero, affine.low - shift, affine.high - shift)


@dataclass
class Patterned:
    """A program with the patterns, and what was stored.

    Attributes:
        module: the program.
        sites: per site what the scales file says of it.
        biases: per bias.
    """

    module: GraphModule
    sites: dict[str, dict[str, Any]]
    biases: dict[str, dict[str, Any]]


def patterned(graph: Graph) -> Patterned:
    """The graph under its present policy with quantizations and dequantizations at its sites."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (defines the operators)

    marked = mark(graph, onnx=False)
    writer = _Writer(marked)
    nodes = list(marked.module.graph.nodes)
    for visit in (writer.activation, writer.parameter):
        for node in nodes:
            visit(node)
    marked.module.graph.eliminate_dead_code()
    marked.module.delete_all_unused_submodules()
    marked.module.graph.lint()
    marked.module.recompile()
    return Patterned(marked.module, writer.sites, writer.biases)


class _Writer:
    """Replaces markers, in the order of execution."""

    def __init__(self, marked: Marked) -> None:
        self.marked, self.module = marked, marked.module
        self.sites: dict[str, dict[str, Any]] = {}
        self.biases: dict[str, dict[str, Any]] = {}
        self._grids: dict[Node, _Grid] = {}
        """Dequantizations, and what a grid passes unchanged -> the grid of its values."""
        self._constants = 0

    def activation(self, node: Node) -> None:
        """The pairs at a marker of an activation, or behind a node that moves what is on a grid."""
        quantizer = self.marked.activations.get(self._label(node))
        if quantizer is not None:
            self._activation(node, quantizer)
            self._erase(node)
        elif moves_only(node) and (grid := self._grids.get(node.args[0])) is not None:  # type: ignore[arg-type]
            if entry_of(node).several:
                self._grids[node] = grid
            else:
                self._pair(node, node, grid)

    def parameter(self, node: Node) -> None:
        """What is stored at a marker of a weight or a bias."""
        label = self._label(node)
        if label in self.marked.weights:
            self._weight(node, self.marked.weights[label])
        elif label in self.marked.biases:
            self._bias(node, label)

    def _erase(self, node: Node) -> None:
        """Without a node, and a clamp in front that has become part of another: a layer has one reader then."""
        source = node.args[0]
        self.module.graph.erase_node(node)
        if isinstance(source, Node) and not source.users and entry_of(source).limits is not None:
            self.module.graph.erase_node(source)

    def _label(self, node: Any) -> str:
        is_marker = isinstance(node, Node) and node.op == "call_module" and str(node.target).startswith(f"{MARKERS}.")
        return str(node.target).partition(".")[2] if is_marker else ""

    def _activation(self, marker: Node, quantizer: Quantizer) -> None:
        grid = _grid(quantizer)
        source = marker.args[0]
        assert isinstance(source, Node)
        full = (grid.low, grid.high) == grid.limits
        if _behind_layer(source) and (not full or entry_of(source).limits is not None):
            self._pair(marker, self._clamped(marker, source, grid), grid)
        elif full:
            self._pair(marker, source, grid)
        else:  # a clamp of integers
            wide = self._quantized(marker, source, grid)
            self._pair(marker, self._call(marker, aten.hardtanh.default, wide, *grid.ends), grid)
        self.sites[quantizer.site.name] = {
            "kind": "activation",
            "bits": quantizer.bits,
            "dtype": "INT8" if grid.dtype == torch.int8 else "INT16",
            "low": grid.low,
            "high": grid.high,
            "zero_point": grid.zero_point,
            "scale": grid.scale,
        }

    def _clamped(self, marker: Node, source: Node, grid: _Grid) -> Node:
        """A clamp to the grid behind a layer, in one with a clamp of the network's: integer kernels take one."""
        low, high = grid.ends
        limits = entry_of(source).limits
        if limits is not None and len(source.users) == 1:
            bottom, top = limits(source)
            low, high = min(max(low, bottom), high), max(min(high, top), low)
            source = source.args[0]  # type: ignore[assignment]
        return self._call(marker, aten.hardtanh.default, source, low, high)

    def _pair(self, replaced: Node, source: Node, grid: _Grid) -> None:
        """Let each reader of a node read its own dequantization of a value."""
        readers = list(replaced.users)
        with self.module.graph.inserting_before(replaced.next):
            integers = self._new(replaced, _quantized.quantize_per_tensor.default, source, *grid.arguments)
            for reader in readers:
                real = self._new(replaced, _quantized.dequantize_per_tensor.default, integers, *grid.arguments)
                reader.replace_input_with(replaced, real)
                self._grids[real] = grid

    def _quantized(self, marker: Node, source: Node, grid: _Grid) -> Node:
        integers = self._call(marker, _quantized.quantize_per_tensor.default, source, *grid.arguments)
        return self._call(marker, _quantized.dequantize_per_tensor.default, integers, *grid.arguments)

    def _call(self, anchor: Node, target: Any, *args: Any) -> Node:
        with self.module.graph.inserting_before(anchor):
            return self._new(anchor, target, *args)

    def _new(self, like: Node, target: Any, *args: Any) -> Node:
        made = self.module.graph.call_function(target, args)
        made.meta = {"nn_module_stack": like.meta["nn_module_stack"]} if "nn_module_stack" in like.meta else {}
        return made

    def _constant(self, anchor: Node, value: Tensor) -> Node:
        name = f"stored_{self._constants}"
        self._constants += 1
        self.module.register_buffer(name, value.contiguous())
        with self.module.graph.inserting_before(anchor):
            return self.module.graph.get_attr(name)

    def _weight(self, marker: Node, quantizer: Quantizer) -> None:
        assert quantizer.bits is not None
        site, (affine, array) = quantizer.site, weight_integers(quantizer)
        values = torch.from_numpy(array)
        dtype = stored_type(site, quantizer.bits)
        kinds = set()
        for reader in list(marker.users):
            kind = self._kind(reader, dtype, site)
            kinds.add(kind)
            if kind == "table":
                self._look_up(reader, values, affine)
                continue
            real = self._real_weight(reader, values, affine, kind)
            reader.replace_input_with(marker, real)
        stored = FLOAT if FLOAT in kinds else INT8 if kinds != {INT4} else INT4
        self.sites[site.name] = {
            "kind": "weight",
            "bits": quantizer.bits,
            "dtype": stored,
            "low": affine.low,
            "high": affine.high,
            "zero_point": 0,
            "axis": site.scheme.axis,
            "group_size": affine.group_size,
            "narrow": site.scheme.narrow,
            "scale": affine.scale.flatten().tolist() if affine.scale.numel() > 1 else float(affine.scale),
        }

    def _kind(self, reader: Node, dtype: str, site: Site) -> str:
        """How a reader gets a weight: as integers of a type, in float, or row by row from a table."""
        role = entry_of(reader).weight
        if role is not None and role.lookup and dtype != FLOAT:
            return "table"
        return dtype if self._in_integers(reader) and site.scheme.granularity != "group" else FLOAT

    def _in_integers(self, node: Node) -> bool:
        """Whether XNNPACK has an integer kernel for a layer: 8 bits go in and come out, perhaps behind a clamp."""
        role = entry_of(node).layer
        if role is None or role.dims > 2 or role.recurrent:
            return False
        bias = node.args[role.bias] if role.bias is not None and len(node.args) > role.bias else None
        label = self._label(bias)
        if label in self.marked.biases and self.marked.biases[label][0].saturated(self.marked.biases[label][1]):
            return False
        given = self._grids.get(node.args[role.input])  # type: ignore[arg-type]
        users = list(node.users)
        if len(users) == 1 and entry_of(users[0]).limits is not None:
            users = list(users[0].users)
        made = users[0] if len(users) == 1 else node
        written = made.args[-1] if made.target == _quantized.quantize_per_tensor.default else None
        return given is not None and given.dtype == written == torch.int8

    def _real_weight(self, anchor: Node, values: Tensor, affine: Affine, kind: str) -> Node:
        if kind == FLOAT:
            return self._constant(anchor, dequantized(values, affine).float())
        low, high = (-8, 7) if kind == INT4 else (-128, 127)
        stored = self._constant(anchor, values.to(torch.int8))
        if affine.scale.numel() == 1:
            arguments = (float(affine.scale), 0, low, high, torch.int8)
            return self._call(anchor, _quantized.dequantize_per_tensor.default, stored, *arguments)
        axis = max(range(affine.scale.dim()), key=lambda i: affine.scale.shape[i])
        scale = self._constant(anchor, affine.scale.flatten())
        zeros = self._constant(anchor, torch.zeros(affine.scale.numel(), dtype=torch.int64))
        return self._call(
            anchor, _quantized.dequantize_per_channel.default, stored, scale, zeros, axis, low, high, torch.int8
        )

    def _look_up(self, lookup: Node, values: Tensor, affine: Affine) -> None:
        """Rows of integers, times their steps: the table is never dequantized as a whole."""
        rows, columns = values.shape
        size = affine.group_size or columns
        groups = -(-columns // size)
        ids = lookup.args[1]
        padded = torch.nn.functional.pad(values, (0, groups * size - columns)).to(torch.int8)
        scale = affine.scale.reshape(-1, groups).expand(rows, groups)
        steps = scale.repeat_interleave(size, 1)[:, :columns] if groups > 1 else scale
        found = self._call(lookup, aten.embedding.default, self._constant(lookup, padded[:, :columns]), ids)
        real = self._call(lookup, aten.to.dtype, found, torch.float32)
        taken = self._call(lookup, aten.embedding.default, self._constant(lookup, steps), ids)
        lookup.replace_all_uses_with(self._call(lookup, aten.mul.Tensor, real, taken))

    def _bias(self, marker: Node, label: str) -> None:
        """In float: XNNPACK makes integers of it, in steps of input step x weight step."""
        quantizer, bias = self.marked.biases[label]
        scale = quantizer.scale(bias)
        assert scale is not None
        rounded = (quantizer.integers(bias) * scale).to(torch.float32).reshape(bias.shape)
        marker.replace_all_uses_with(self._constant(marker, rounded))
        steps = scale.tolist() if scale.numel() > 1 else float(scale)
        self.biases[quantizer.name] = {"dtype": "FLOAT", "scale": steps, "saturated": quantizer.saturated(bias)}


def _behind_layer(node: Node) -> bool:
    """Whether a value comes from a layer, directly or through one clamp."""
    if entry_of(node).limits is not None and len(node.users) == 1 and isinstance(node.args[0], Node):
        node = node.args[0]
    return entry_of(node).layer is not None and len(node.users) == 1


_quantized: Any = torch.ops.quantized_decomposed
