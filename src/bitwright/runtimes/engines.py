"""The packages behind the formats, imported when they are first needed."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from bitwright.errors import MissingExtra
from bitwright.graph.pt2e import quiet


def _load(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is there, and something inside it is broken
        raise MissingExtra(package.replace("_", "-"), "onnx", "to write ONNX files") from None


def onnx() -> Any:
    """The ``onnx`` package, or :class:`MissingExtra`."""
    return _load("onnx")


def onnx_ir() -> Any:
    """The ``onnx_ir`` package, or :class:`MissingExtra`."""
    return _load("onnx_ir")


def require_exporter() -> None:
    """Raise :class:`MissingExtra` unless everything that ``torch.onnx.export`` needs is installed."""
    for package in ("onnx", "onnx_ir", "onnxscript"):
        _load(package)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what ExecuTorch's libraries write to the standard error stream, past Python."""
    with quiet():
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


@contextlib.contextmanager
def loading_executorch() -> Iterator[None]:
    """While modules of ExecuTorch are imported: silent, and without the handler that they give the root logger.

    Raises:
        MissingExtra: it is not installed.
    """
    handlers = list(logging.root.handlers)
    try:
        with silent():
            yield
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != "executorch":
            raise  # the package is there, and something inside it is broken
        raise MissingExtra("executorch", "xnnpack", "to export for ExecuTorch and to run its files") from None
    finally:
        logging.root.handlers[:] = handlers


def executorch_library() -> Any:
    """The module of ExecuTorch's runtime, or :class:`MissingExtra`."""
    with loading_executorch():
        import executorch.kernels.quantized  # noqa: F401  (registers kernels)
        from executorch.extension.pybindings import portable_lib

        return portable_lib
