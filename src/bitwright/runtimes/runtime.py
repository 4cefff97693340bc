"""What a runtime is: exporting for it, running its files, and what it stores; one file each, behind one protocol."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from bitwright.arguments import checked
from bitwright.errors import ExportError, MissingExtra
from bitwright.files import atomic_files
from bitwright.graph.graph import Graph
from bitwright.registry import Registry, check_options, options_of
from bitwright.settings import DEFAULTS
from bitwright.values import Policy, Site

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    Attributes:
        path: the file.
        bytes: its size.
        float_bytes: the size that the float model takes in the same format.
        notes: sentences on what stays in float whatever the policy, and on what the runtime cannot hold as it is.
        scales: per site and per bias what is stored: bits, type, range, step, zero point (see :func:`scales_json`).
    """

    path: Path
    bytes: int
    float_bytes: int
    notes: tuple[str, ...] = ()
    scales: dict[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """A file that is loaded and can be run."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the export wrote into the file: ``bitwright.graph``, the graph's hash, and ``bitwright.policy``."""

    def __call__(self, *inputs: Any) -> list[Array]:
        """The outputs, flat, for inputs in the order of the model's."""

    def random_inputs(self, batch: int, seed: int = 0) -> list[Array]:
        """Inputs of the right shapes and types."""


def random_arrays(entries: Iterable[tuple[Sequence[int | None], npt.DTypeLike]], batch: int, seed: int) -> list[Array]:
    """For each (shape, type) normal values of float32, zeros of another type; a size of None is the batch's."""
    generator = np.random.default_rng(seed)
    found: list[Array] = []
    for sizes, kind in entries:
        shape = [batch if size is None else size for size in sizes]
        normal = np.dtype(kind) == np.float32
        found.append(generator.standard_normal(shape, dtype=np.float32) if normal else np.zeros(shape, kind))
    return found


class Runtime(ABC):
    """A program that runs exported networks.

    Attributes:
        name: what users write.
        does: what it is, in one sentence.
        called: its name in a sentence.
        suffix: of its files.
        packages: that must be installed.
        extra: of Bitwright, that installs them; empty for a runtime from elsewhere.
        placement: what ``quantizer="auto"`` stands for in a run for it; empty for Bitwright's default.
        optimises: whether it optimises a file when it loads it, which can be switched off.
        order: where it stands in lists.
    """

    name: ClassVar[str]
    does: ClassVar[str]
    called: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    placement: ClassVar[str] = ""
    optimises: ClassVar[bool] = True
    order: ClassVar[int] = 100

    @abstractmethod
    def version(self) -> str:
        """Name and version, e.g. ``ONNX Runtime 1.31.1``."""

    @abstractmethod
    def export(self, graph: Graph, path: Path) -> ExportResult:
        """Write the graph under the current policy; further parameters with defaults are the runtime's options.

        Args:
            graph: calibrated.
            path: of the file, in a folder of its own; what the runtime writes beside it goes along.
        """

    @abstractmethod
    def load(self, path: str | Path, optimised: bool = True, threads: int = 1) -> Session:
        """Load a file.

        Args:
            path: of the file.
            optimised: as it is used, with fused kernels; False: each operation as it stands in the file, which gives
                exactly what was simulated.
            threads: used inside an operation.
        """

    @abstractmethod
    def weight_bytes(self, site: Site, bits: int) -> float:
        """Bytes that it stores for a quantized weight: integers, scales and zero points."""

    def require(self) -> None:
        """Find out before the work that a package is missing."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                purpose = f"to export for {self.called} (or take the runtime 'none')"
                raise MissingExtra(package.replace("_", "-"), self.extra, purpose)

    def site_values(
        self, path: str | Path, inputs: Sequence[Any], names: Sequence[str], optimised: bool = True, threads: int = 1
    ) -> dict[str, Array]:
        """The values that a file computes at these activation sites; none by default."""
        return {}

    def annotate(self, path: str | Path, entries: Mapping[str, str]) -> None:
        """Write further metadata into a file.

        Raises:
            ExportError: its files hold none; so by default.
        """
        raise ExportError(f"files for {self.called} hold no metadata; keep it beside '{path}'")

    def unfused(self, path: str | Path) -> tuple[str, ...]:
        """The operations of a file that it computes in float, ``"layer1.0.conv1 (Conv)"``; none by default."""
        return ()


RUNTIMES: Registry[Runtime] = Registry("runtime", "bitwright.runtimes")
"""Every runtime by name."""


@checked
def export(
    graph: Graph,
    path: str | Path,
    runtime: str = DEFAULTS.runtime,
    policy: Policy | None = None,
    **options: Any,
) -> ExportResult:
    """Write a graph as a file that a runtime executes.

    The file rounds exactly where the simulation rounds. With the policy ``bw.FLOAT`` it is the float model.

    Args:
        graph: calibrated; its policy is left as it was.
        path: of the file; it is replaced as a whole or not at all.
        runtime: one of :data:`RUNTIMES`.
        policy: None for the current policy.
        **options: of the runtime. For ONNX Runtime ``storage``: ``"smallest"``: weights to 4 bits as INT4, two in a
            byte; ``"int8"``: no type below INT8, for readers that lack INT4; ``"packed"``: as smallest, and weights to
            4 bits in groups stay packed in memory, too, in an operator that ONNX Runtime alone has (MatMulNBits).

    Raises:
        InvalidInput: an unknown runtime or option, or a policy that does not fit.
        MissingExtra: its packages are not installed.
        ExportError: an operation has no equivalent in the format, or the file would be too large for it.
        StoreError: the file cannot be written.
    """
    chosen = RUNTIMES[runtime]
    check_options(f"runtime '{runtime}'", options_of(chosen.export, ("graph", "path")), options)
    with graph.applied(graph.policy if policy is None else policy), atomic_files(path) as target:
        result = chosen.export(graph, target, **options)
    return replace(result, path=Path(path), notes=(*graph.coverage.sentences(), *result.notes))
