"""What repairs fitted, as arrays, kept with a recipe: applying it again then fits nothing and gives the same bits."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.errors import InvalidInput

FITTED_VERSION = 1
_HEADER = "bitwright"
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


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
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(arrays.pop(_HEADER).tobytes())
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
        return cls(head["graph"], head["recipe"], head["about"], arrays)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, e.g. for a run store."""
        return {"bitwright": "fitted", "npz": base64.b64encode(self.to_bytes()).decode("ascii")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fitted:
        """Inverse of :meth:`to_dict`; errors as in :meth:`from_bytes`."""
        return cls.from_bytes(base64.b64decode(data["npz"]), "what was stored for the recipe")
