"""What repairs fitted, as arrays, kept with a recipe: applying it again then fits nothing and gives the same bits."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.errors import InvalidInput
from bitwright.values.json import Value, parsed

FITTED_VERSION = 1
MOST_BYTES = 1 << 33
"""Of a file of fitted values."""
_ALWAYS_BYTES, _MOST_RATIO, _HEADER_BYTES = 1 << 28, 100, 1 << 16
"""What may be unpacked in any case; beyond that how many times a file's size, which integers of a network never reach;
and where the header of an array ends."""
_HEADER = "bitwright"
_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A quantized network's grids, learned integers, biases and changed weights.

    Attributes:
        graph: hash of the captured graph that it belongs to.
        recipe: digest of the recipe that made it, see :attr:`bitwright.values.recipe.Recipe.digest`.
        about: plain data: what is not an array.
        arrays: name -> array; integers in the smallest type that holds them.
    """

    graph: str
    recipe: str
    about: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the content, 64 hexadecimal digits; the same on every machine."""
        digest = hashlib.sha256(self._header())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def rescales(self) -> bool:
        """Whether float weights were changed, so that what was observed before belongs to other ones."""
        return any(name.startswith("weight/") for name in self.arrays)

    def _header(self) -> bytes:
        head = {"version": FITTED_VERSION, "graph": self.graph, "recipe": self.recipe, "about": self.about}
        return json.dumps(head, sort_keys=True).encode()

    def to_bytes(self) -> bytes:
        """The content of an ``.npz`` file, compressed."""
        file = io.BytesIO()
        header = np.frombuffer(self._header(), np.uint8)
        np.savez_compressed(file, **{_HEADER: header, **self.arrays})  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the file") -> Fitted:
        """Inverse of :meth:`to_bytes`.

        Raises:
            InvalidInput: it is damaged, no such file, or of another version.
        """
        try:
            arrays = dict(_arrays_in(data))
            text = arrays.pop(_HEADER).tobytes().decode("utf-8")
            head = parsed(text, source)
            version = head["version"]
        except _UNREADABLE:
            raise InvalidInput(
                f"{source} is damaged, or holds no fitted values; put the right file back, or delete it to have the "
                "recipe fitted again"
            ) from None
        if version != FITTED_VERSION:
            raise InvalidInput(
                f"{source} has version {version}, this Bitwright reads version {FITTED_VERSION}; take the Bitwright "
                "that wrote it, or delete the file to have the recipe fitted again"
            )
        head = _Head.from_dict(head, source)
        wrong = next((name for name, array in arrays.items() if array.dtype.kind not in "iuf"), None)
        wrong = wrong or next((n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None)
        if wrong is not None:
            raise InvalidInput(
                f"{source}: '{wrong}' must hold whole or finite numbers; put the right file back, or delete it to have "
                "the recipe fitted again"
            )
        return cls(head.graph, head.recipe, head.about, arrays)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, e.g. for a run store."""
        return {"bitwright": "fitted", "npz": base64.b64encode(self.to_bytes()).decode("ascii")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fitted:
        """Inverse of :meth:`to_dict`; errors as in :meth:`from_bytes`."""
        return cls.from_bytes(base64.b64decode(data["npz"]), "what was stored for the recipe")


@dataclass(frozen=True)
class _Head(Value):
    version: int
    graph: str
    recipe: str
    about: dict[str, Any]


def _arrays_in(data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of an ``.npz`` file by name; nothing is unpacked that is larger than it says, or than may be.

    Raises:
        ValueError: a name is there twice, or an array is larger than may be or than it says; others of
            :data:`_UNREADABLE`.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise ValueError("a name is there twice")
        if sum(member.file_size for member in members) > max(_ALWAYS_BYTES, _MOST_RATIO * len(data)):
            raise ValueError("it is far larger unpacked")
        for member in members:
            with archive.open(member) as stream:
                start = io.BytesIO(stream.read(min(member.file_size, _HEADER_BYTES)))
            version = np.lib.format.read_magic(start)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, kind = read(start)
            if kind.hasobject or start.tell() + math.prod(shape) * kind.itemsize != member.file_size:
                raise ValueError("an array has another size than it says")
            with archive.open(member) as stream:
                yield member.filename.removesuffix(".npy"), np.lib.format.read_array(stream, allow_pickle=False)
