"""The guard in use: a file that carries its rule, and a wrapper that sends inputs at risk to the float network."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bitwright.arguments import checked
from bitwright.behavior.indicators import INDICATORS
from bitwright.errors import InvalidInput
from bitwright.graph.calling import Calling, named_inputs
from bitwright.runtimes.runtime import RUNTIMES
from bitwright.settings import DEFAULTS
from bitwright.tasks.base import TASKS
from bitwright.values.behavior import Guard

METADATA = "bitwright.guard"
"""Under which a file holds its guard, as JSON."""


@checked
def add_guard(path: str | Path, guard: Guard, runtime: str = DEFAULTS.runtime) -> None:
    """Write a guard into the metadata of an exported file; its network stays as it is.

    Args:
        path: of the file, which is replaced as a whole or not at all.
        guard: from :func:`~bitwright.behavior.behavior`.
        runtime: that the file was exported for.

    Raises:
        InvalidInput: there is no such file, or none that the runtime reads.
        ExportError: files of this runtime hold no metadata.
        StoreError: the file cannot be written.
    """
    RUNTIMES[runtime].annotate(path, {METADATA: guard.to_json()})


class Guarded:
    """An exported network under its guard: inputs whose indicator is beyond the threshold go to the float network.

    Args:
        path: of the exported file.
        fallback: the float network: a module, whose inputs are given by name where the file knows their names; any
            function of the inputs, in the order of the file's; or the path of its exported file.
        guard: None: the one that the file carries, see :func:`add_guard`.
        runtime: of the files.
        threads: used inside an operation.

    Attributes:
        guard: the rule.

    Raises:
        InvalidInput: the file carries no guard, or the guard's task or indicator is unknown.
        MissingExtra: the runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        fallback: Callable[..., Any] | str | Path,
        guard: Guard | None = None,
        runtime: str = DEFAULTS.runtime,
        threads: int = 1,
    ) -> None:
        chosen = RUNTIMES[runtime]
        self._session = chosen.load(path, threads=threads)
        if guard is None:
            text = self._session.metadata.get(METADATA)
            if text is None:
                raise InvalidInput(f"the file '{path}' carries no guard; write one into it with bw.add_guard")
            guard = Guard.from_json(text, f"the guard in '{path}'")
        self.guard = guard
        self._task, self._indicator = TASKS[guard.task](), INDICATORS[guard.indicator]
        self._calling = Calling(tuple(json.loads(self._session.metadata.get("bitwright.inputs", "[]"))))
        self._fallback = chosen.load(fallback, threads=threads) if isinstance(fallback, (str, Path)) else fallback
        self._by_name = False
        if isinstance(fallback, nn.Module):
            fallback.eval()
            known = inspect.signature(fallback.forward).parameters.values()
            named = {each.name for each in known if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
            self._by_name = set(self._calling.names) <= named

    def __call__(self, *inputs: Any) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.bool_]]:
        """The outputs, flat, with the float network's rows where inputs were sent there; and (N,) which were.

        Args:
            inputs: in the order of the file's, or one dictionary by name.

        Raises:
            InvalidInput: other inputs than the file's, a task without probabilities, or a float network with other
                outputs than the file.
            InvalidData: inputs that the file cannot take.
        """
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            inputs = self._calling.arranged(named_inputs(inputs[0]))
        outputs = self._session(*inputs)
        probabilities = self._task.probabilities(torch.from_numpy(outputs[0]))
        if probabilities is None:
            raise InvalidInput(f"the task '{self.guard.task}' has no probabilities, which the guard needs")
        values = self._indicator.function(probabilities.double()).numpy()
        kept = values > self.guard.threshold if self.guard.below else values < self.guard.threshold
        sent = ~kept  # NaN, too
        if sent.any():
            found = self._exact(inputs, torch.from_numpy(np.flatnonzero(sent)))
            if len(found) != len(outputs):
                raise InvalidInput(
                    f"the float network must give as many outputs as the file, {len(outputs)}, got {len(found)}; as "
                    "the fallback, give a function that returns only those of the file"
                )
            for output, exact in zip(outputs, found, strict=True):
                output[sent] = exact.detach().cpu().numpy() if isinstance(exact, Tensor) else exact
        return outputs, sent

    def _exact(self, inputs: tuple[Any, ...], rows: Tensor) -> list[Any]:
        """The float network's outputs, flat, on some of the samples."""
        given = [torch.as_tensor(value)[rows] for value in inputs]
        by_name = self._by_name and len(given) == len(self._calling.names)
        with torch.no_grad():
            if by_name:
                return tree_leaves(self._fallback(**dict(zip(self._calling.names, given, strict=True))))
            return tree_leaves(self._fallback(*given))
