"""The state of something that learns, in a file: kept after each epoch, and taken up again after an interruption."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bitwright.errors import InvalidInput
from bitwright.files import write_atomically


def keep(file: Path, key: str, state: Mapping[str, Any]) -> None:
    """Write a state, as a whole or not at all.

    Args:
        file: that is replaced.
        key: what the state belongs to.
        state: tensors and plain data.
    """
    buffer = io.BytesIO()
    torch.save({**state, "key": key}, buffer)
    write_atomically(file, buffer.getvalue())


def taken_up(file: Path, key: str, work: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state that :func:`keep` wrote.

    Raises:
        InvalidInput: the file is no checkpoint, or that of another piece of work (``work`` names its kind).
    """
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True, map_location=device)
    except Exception as error:
        raise InvalidInput(f"checkpoint '{file}' cannot be read ({type(error).__name__}); remove it") from error
    if state.get("key") != key:
        raise InvalidInput(f"checkpoint '{file}' belongs to another {work}; remove it, or name another file")
    return state
