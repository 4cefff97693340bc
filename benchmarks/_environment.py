"""What every benchmark writes beside its figures: where they come from, and the file itself."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("bitwright", "torch", "torchao", "numpy", "scipy", "onnx", "onnxruntime", "openvino", "executorch")


def environment() -> dict[str, Any]:
    """Python, packages, threads and processor of this run."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": versions,
        "threads": {
            "torch": torch.get_num_threads() if torch is not None else None,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "cores": os.cpu_count(),
        },
        "cpu": cpu_model(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def needs_data_and_weights() -> None:
    """Leave, saying what to set, where the folders of real data and trained networks are not named."""
    missing = [name for name in ("BITWRIGHT_DATA", "BITWRIGHT_WEIGHTS") if not os.environ.get(name)]
    if missing:
        sys.exit(f"set {' and '.join(missing)} to the folders that hold the data and the weights")


def cpu_model() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write(name: str, figures: Mapping[str, Any], path: str | Path | None = None) -> dict[str, Any]:
    """Print a benchmark's figures with their environment as JSON, and write them to a file where one is given."""
    document = {"benchmark": name, "figures": dict(figures), "environment": environment()}
    text = json.dumps(document, indent=2)
    print(text)
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return document


def output_argument(description: str | None) -> argparse.ArgumentParser:
    """A parser with the one option that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", metavar="FILE", help="write the JSON to this file, too")
    return parser
