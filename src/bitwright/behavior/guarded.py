"""The guard in use: a file that carries its rule, and a wrapper that sends inputs at risk to the float network."""

from __future__ import annotations

from collections.abc import Callable
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
        fallback: the float network: a module, any function of the inputs, or the path of its exported file.
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
        self._fallback = chosen.load(fallback, threads=threads) if isinstance(fallback, (str, Path)) else fallback
        if isinstance(fallback, nn.Module):
            fallback.eval()

    def __call__(self, *inputs: Any) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.bool_]]:
        """The outputs, flat, with the float network's rows where inputs were sent there; and (N,) which were."""
        outputs = self._session(*inputs)
        probabilities = self._task.probabilities(torch.from_numpy(outputs[0]))
        if probabilities is None:
            raise InvalidInput(f"the task '{self.guard.task}' has no probabilities, which the guard needs")
        values = self._indicator.function(probabilities.double()).numpy()
        sent = values <= self.guard.threshold if self.guard.below else values >= self.guard.threshold
        if sent.any():
            rows = torch.from_numpy(np.flatnonzero(sent))
            with torch.no_grad():
                found = tree_leaves(self._fallback(*(torch.as_tensor(value)[rows] for value in inputs)))
            for output, exact in zip(outputs, found, strict=True):
                output[sent] = exact.detach().cpu().numpy() if isinstance(exact, Tensor) else exact
        return outputs, sent
