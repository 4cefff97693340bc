"""Adding nodes and constants to an ONNX model in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.runtimes import engines


class Builder:
    """Adds nodes and constants under names that stay unique."""

    def __init__(self, model: Any) -> None:
        self.ir = engines.onnx_ir()
        self.model = model
        self.graph = model.graph
        self._names = {value.name for node in self.graph for value in node.outputs}
        self._names |= {value.name for value in self.graph.inputs} | set(self.graph.initializers)
        self._names |= {node.name for node in self.graph}
        self._constants: dict[tuple[str, str, bytes, tuple[int, ...]], Any] = {}

    def unique(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2``, ... if it is taken."""
        found, count = name, 0
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found

    def constant(self, name: str, values: Any, dtype: str) -> Any:
        """An initializer; the same values under the same name are stored once.

        Args:
            name: wanted name.
            values: anything that numpy takes.
            dtype: name of an ONNX type, e.g. ``"INT4"``.
        """
        kind = self.ir.DataType[dtype]
        array: npt.NDArray[Any] = np.asarray(values)
        key = (name, dtype, array.tobytes(), array.shape)
        if key not in self._constants:
            tensor = self.ir.tensor(array.astype(kind.numpy()), dtype=kind, name=self.unique(name))
            value = self.ir.Value(
                name=tensor.name, shape=self.ir.Shape(array.shape), type=self.ir.TensorType(kind), const_value=tensor
            )
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def node(
        self,
        anchor: Any,
        operation: str,
        inputs: list[Any],
        name: str,
        attributes: dict[str, Any] | None = None,
        domain: str = "",
    ) -> Any:
        """A node without a name in front of ``anchor``; returns its output, which is called ``name``."""
        value = self.ir.Value(name=self.unique(name))
        made = self.ir.node(operation, inputs, attributes or {}, domain=domain, outputs=[value])
        self.graph.insert_before(anchor, made)
        made.name = None  # its output's name says it all, and small networks are made of names
        return value

    def nodes(self, anchor: Any, operation: str, inputs: list[Any], names: list[str]) -> tuple[Any, ...]:
        """As :meth:`node`, for an operation with several outputs; returns them."""
        values = [self.ir.Value(name=self.unique(name)) for name in names]
        made = self.ir.node(operation, inputs, outputs=values)
        self.graph.insert_before(anchor, made)
        made.name = None
        return tuple(values)

    def tidy(self) -> None:
        """Remove what is no longer used, sort, and drop the domain of the markers."""
        common = self.ir.passes.common
        common.RemoveUnusedNodesPass()(self.model)
        common.TopologicalSortPass()(self.model)
        common.RemoveUnusedOpsetsPass()(self.model)


def replace(value: Any, by: Any) -> None:
    """Let every reader of a value, graph outputs included, read another one; an output keeps its name."""
    if value.is_graph_output():
        name = value.name
        value.name = f"{name}.marker"
        by.name, by.type, by.shape = name, value.type, value.shape
    value.replace_all_uses_with(by, replace_graph_outputs=True)
