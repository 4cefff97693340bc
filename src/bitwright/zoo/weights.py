"""Load a file of trained weights into a network, and say clearly why if it does not fit.

``.safetensors`` files and ``.pt`` / ``.pth`` / ``.th`` files (read without running any code in them) are
accepted; so are a dictionary that holds the weights under ``"state_dict"`` and names that start with
``"module."``, as `torch.nn.DataParallel` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput, MissingExtra, first_line

WEIGHTS_VARIABLE = "BITWRIGHT_WEIGHTS"
"""The environment variable that names the folder of weight files."""

Network = TypeVar("Network", bound=nn.Module)


def load_weights(model: Network, path: str | Path) -> Network:
    """Copy the weights in ``path`` into ``model`` and put it into evaluation mode.

    Every parameter and buffer must be in the file, with its shape, and nothing else. Of tied weights, one that two
    layers share, one name is enough, as safetensors writes them; the batch counters of batch norm
    (``num_batches_tracked``), which no result depends on, may be missing.

    Returns:
        The same ``model``, in evaluation mode.

    Raises:
        InvalidInput: the file is missing or unreadable, does not fit the network, or holds NaN or infinity.
        MissingExtra: the file is a ``.safetensors`` file and safetensors is not installed.
    """
    file = Path(path).expanduser()
    found = _read(file)
    wanted = model.state_dict()
    given = {(value.data_ptr(), value.shape) for key, value in wanted.items() if key in found}
    missing = [
        key
        for key, value in wanted.items()
        if key not in found and (value.data_ptr(), value.shape) not in given and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in found if key not in wanted]
    misshapen = [
        f"{key} {list(found[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    faults = [
        _first_three(fault, keys)
        for fault, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        if keys
    ]
    if faults:
        raise InvalidInput(f"the weights in {file} do not fit {type(model).__name__}: {'; '.join(faults)}")
    broken = [key for key, value in found.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InvalidInput(f"the weights in {file} are not finite: {_first_three('NaN or infinity in', broken)}")
    model.load_state_dict(found, strict=False)
    return model.eval()


def trained(model: Network, weights: str | Path | None) -> Network:
    """The network with the weights of a file, in evaluation mode; as it is where there is none."""
    return model if weights is None else load_weights(model, weights)


def weights_from_environment(name: str) -> Path:
    """Return the path of the weight file ``name`` in the folder that ``BITWRIGHT_WEIGHTS`` names."""
    folder = os.environ.get(WEIGHTS_VARIABLE, "")
    if not folder:
        raise InvalidInput(f"{WEIGHTS_VARIABLE} is not set: set it to the folder that holds {name}")
    file = Path(folder).expanduser() / name
    if not file.is_file():
        raise InvalidInput(f"{WEIGHTS_VARIABLE}={folder} holds no file {name}: set it to the folder that does")
    return file


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InvalidInput(f"no weight file at {file}")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix not in (".pt", ".pth", ".th"):
        raise InvalidInput(f"weights must be a .safetensors or .pt file, got {file}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything in the unpickler
        raise InvalidInput(f"cannot read the weights in {file}: {first_line(error)}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InvalidInput(f"{file} holds no state dict: save it with torch.save(model.state_dict(), path)")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtra("safetensors", "weights", "to read .safetensors files") from error
    try:
        content: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"cannot read the weights in {file}: {first_line(error)}") from error
    return content


def _first_three(fault: str, keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{fault} {', '.join(listed[:3])}{more}"
