"""The packages behind the ONNX format, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from bitwright.errors import MissingExtra


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
