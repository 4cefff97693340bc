"""Files that are not what they should be, made from good ones."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 17, 10**12, -(2**70), 0.5, -0.0, 1e308, -1e308, 5e-324),
    *(
        "",
        "x",
        "nan",
        "inf",
        "-inf",
        "../../etc/passwd",
        "\x00",
        "\n\n",
        "größe",
        "\ud800",
        "<script>",
        "9" * 400,
        "{}",
    ),
    *([], {}, [[]], [None], [1, [2, [3]]], {"": 1}, {"a": {"b": {}}}, [[[[[[[[1]]]]]]]], list(range(300))),
)


def paths(data: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of plain data."""
    yield here
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, part in parts:
        yield from paths(part, (*here, key))


def changed(data: Any, path: tuple[Any, ...], value: Any, action: str = "set") -> Any:
    """Plain data with another value at a place; or without that place, or with the value beside it."""
    if not path:
        return value
    made = copy.deepcopy(data)
    place = made
    for key in path[:-1]:
        place = place[key]
    if action == "remove":
        del place[path[-1]]
    elif action == "add" and isinstance(place, dict):
        place[f"{path[-1]}?"] = value
    elif action == "add":
        place.insert(path[-1], value)
    else:
        place[path[-1]] = value
    return made


def broken_json(text: str, draw: random.Random) -> str:
    """A text of JSON with one fault."""
    kind = draw.randrange(10)
    if kind < 6:
        data = json.loads(text)
        path = draw.choice([p for p in paths(data) if p])
        action = draw.choice(["set", "set", "set", "set", "remove", "add"])
        return json.dumps(changed(data, path, draw.choice(NASTY), action))
    return broken_text(text, draw)


def broken_text(text: str, draw: random.Random) -> str:
    """A text with a character, or a stretch, that is not as it was."""
    at, end = sorted(draw.randrange(len(text)) for _ in range(2))
    kind = draw.randrange(5)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + text[at:end] * 2 + text[end:]
    if kind == 2:
        return (
            text[:at]
            + draw.choice(["[" * 5000, "9" * 5000, "NaN", "Infinity", '"', "\\", "}", "\x00", "é"])
            + text[at:]
        )
    if kind == 3:
        return text[:at] + text[end:]
    return text[:at] + chr(draw.choice([0, 32, 34, 44, 48, 57, 91, 123, 0x1F600])) + text[at + 1 :]


def broken_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes of which a few are not as they were."""
    made = bytearray(data)
    if draw.random() < 0.2:
        return bytes(made[: draw.randrange(len(made))])
    for _ in range(draw.choice([1, 1, 2, 8])):
        made[draw.randrange(len(made))] = draw.randrange(256)
    return bytes(made)


def with_arrays(data: bytes, **changes: Any) -> bytes:
    """An ``.npz`` file with other arrays under these names; None takes one out."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)
    return made.getvalue()


def broken_arrays(data: bytes, draw: random.Random) -> bytes:
    """An ``.npz`` file in which one array, or a part of its header, is not as it was."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    name = draw.choice(sorted(arrays))
    if name == "bitwright":
        text = broken_json(arrays[name].tobytes().decode(), draw)
        return with_arrays(data, bitwright=np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8))
    array = arrays[name]
    if draw.random() < 0.15:
        return with_arrays(data, **{name: None})
    other = array.astype(np.float64).reshape(-1)
    other[draw.randrange(len(other))] = draw.choice([0.0, -1.0, np.nan, np.inf, 0.5, 1e30, 1e-30, 300.0])
    with np.errstate(all="ignore"):
        forms = (other, other.astype(array.dtype), array[None], array.reshape(-1)[:-1])
        kinds = (np.complex64, "U8", bool, np.float16, np.uint64)
        made = draw.choice([*forms, *(array.astype(kind) for kind in kinds)])
    return with_arrays(data, **{name: made.reshape(array.shape) if made is forms[0] or made is forms[1] else made})


def bomb(megabytes: int) -> bytes:
    """A small ``.npz`` file that says it is large when it is unpacked."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bitwright.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": (megabytes << 20,)}
        )
        for _ in range(megabytes):
            stream.write(bytes(1 << 20))
    return made.getvalue()
