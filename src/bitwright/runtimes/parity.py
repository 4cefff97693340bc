"""Parity: does the file in its runtime predict what the simulation predicts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.graph.operations import source_of
from bitwright.quantizers.uniform import ActivationQuantizer
from bitwright.runtimes import onnxruntime
from bitwright.values import Parity


def parity(graph: Graph, path: str | Path, batches: Any, threads: int = 1) -> Parity:
    """Run the same inputs through the simulation and through the exported file, optimisations off and on.

    Args:
        graph: with the policy in force that was exported.
        path: the exported file.
        batches: iterable of (inputs, targets); targets may be missing.
        threads: threads of the runtime.

    Returns:
        Agreement of the predicted classes (of every position, for dense outputs), the largest differences of the
        outputs in output steps (in plain units when the output is in float), and the accuracy of the file.

    Raises:
        InvalidData: no data.
        InvalidInput: the runtime cannot load the file.
    """
    sessions = [onnxruntime.session(path, optimised, threads) for optimised in (False, True)]
    equal, largest = [0, 0], [0.0, 0.0]
    positions = samples = right = judged = 0
    for inputs, targets in iterate(as_batches(batches), graph.device, "parity"):
        with torch.no_grad():
            outputs = graph(*inputs)
        if not isinstance(outputs, Tensor):
            raise InvalidInput(f"parity needs a model with one output tensor, got {type(outputs).__name__}")
        simulated = outputs.cpu().numpy()
        expected = simulated.argmax(1) if simulated.ndim > 1 else simulated
        samples += len(simulated)
        positions += expected.size
        for i, session in enumerate(sessions):
            found = onnxruntime.run(session, inputs)
            if not np.isfinite(found).all():
                raise InvalidData("the exported file puts out values that are not finite")
            predicted = found.argmax(1) if found.ndim > 1 else found
            equal[i] += int((predicted == expected).sum())
            largest[i] = max(largest[i], float(np.abs(found - simulated).max()))
            if i == 1 and isinstance(targets, Tensor) and not targets.is_floating_point():
                labels = targets.cpu().numpy()
                if labels.shape == predicted.shape:
                    right += int((predicted == labels).sum())
                    judged += labels.size
    step = _output_step(graph)
    unit = step or 1.0
    return Parity(
        onnxruntime.version(),
        samples,
        equal[0] / positions,
        equal[1] / positions,
        largest[0] / unit,
        largest[1] / unit,
        step,
        right / judged if judged else None,
    )


def _output_step(graph: Graph) -> float | None:
    """Step of the site that makes the output, None when the output is in float."""
    output = next(node for node in graph.module.graph.nodes if node.op == "output")
    node = output.args[0]
    while isinstance(node, (tuple, list)):
        node = node[0]
    node = source_of(node)
    if node.op != "call_module":
        return None
    quantizer = graph.module.get_submodule(str(node.target))
    if not isinstance(quantizer, ActivationQuantizer) or quantizer.bits is None:
        return None
    return float(quantizer.affine(quantizer.bits).scale)
