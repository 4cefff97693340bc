"""Keys by content: the same parts give the same key, in every process and on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.values import Policy


def content_key(**parts: Any) -> str:
    """Return 32 hexadecimal digits that identify ``parts`` by their content.

    The key does not depend on the order of keywords, of mappings or of sets, nor on the process's hash
    seed. A :class:`~bitwright.values.Policy` counts by its bits alone (not its name, nor the order of its
    sites); lists and tuples are the same; ``1`` and ``1.0`` and ``True`` are three different values.

    Args:
        **parts: plain data: None, bool, int, finite float, str, path, enum, list, tuple, set, mapping with
            string keys, dataclass, NumPy scalar. Tensors and arrays are refused: pass their fingerprint.

    Raises:
        InvalidInput: a part has no stable content.
    """
    text = json.dumps(_plain(parts, ""), sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool | int) and not isinstance(value, Enum):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"a key cannot be made of {value!r} at '{where}'; pass a finite number")
        return float(value)
    if isinstance(value, Policy):
        return dict(value.bits)
    if isinstance(value, Enum):
        return _plain(value.value, where)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        wrong = next((k for k in value if not isinstance(k, str)), None)
        if wrong is not None:
            raise InvalidInput(f"a key can only be made of mappings with string keys, got {wrong!r} at '{where}'")
        return {k: _plain(v, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_plain(v, where) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if getattr(value, "shape", None) == () and hasattr(value, "item") and hasattr(value, "dtype"):
        return _plain(value.item(), where)
    raise InvalidInput(
        f"a key cannot be made of a {type(value).__name__} at '{where}'; pass plain data, or a fingerprint of it"
    )
