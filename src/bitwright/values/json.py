"""Values as JSON that people can read and diff. Pydantic checks what is read, and is imported only then."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bitwright.errors import BitwrightError, InvalidInput
from bitwright.files import read_bounded, write_atomically

MOST_BYTES = 1 << 28
"""Of a file of JSON."""
MOST_DEPTH, MOST_DIGITS = 64, 40

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
    from pydantic_core import CoreSchema
    from typing_extensions import Self


@dataclass(frozen=True)
class As:
    """How a field is read whose type pydantic does not know: in its annotation.

    Attributes:
        read: from JSON.
        wanted: the end of "must be", for what cannot be read.
    """

    read: Callable[[Any], Any]
    wanted: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import PydanticCustomError, core_schema

        def read(value: Any) -> Any:
            try:
                return self.read(value)
            except (KeyError, TypeError, ValueError):
                raise PydanticCustomError("wanted", "{wanted}", {"wanted": f"must be {self.wanted}"}) from None

        return core_schema.no_info_plain_validator_function(read)


class Value:
    """Base of the frozen dataclasses that go to and from JSON, by the types of their fields.

    A subclass that stands in a file of its own gives ``kind``, which the file begins with, ``version``, to be raised
    with every change of the format, and ``error``, raised for what cannot be read.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    _kind: ClassVar[str] = ""
    _version: ClassVar[int] = 1
    _error: ClassVar[type[InvalidInput]] = InvalidInput

    def __init_subclass__(cls, kind: str = "", version: int = 1, error: type[InvalidInput] = InvalidInput) -> None:
        cls._kind, cls._version, cls._error = kind, version, error

    def _written(self) -> dict[str, Any]:
        """What stands in JSON, in this order; by default all fields."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields}

    @classmethod
    def _read(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields, not yet checked, from what :meth:`_written` gave; an :class:`InvalidInput` is passed on."""
        return data

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        schema = handler(source)
        # Inside the dataclass's own schema, since that is what other fields of this type refer to.
        whole: Any = handler.resolve_ref_schema(schema)
        whole["schema"] = core_schema.no_info_before_validator_function(
            lambda data: cls._read(dict(data)) if isinstance(data, Mapping) else data, whole["schema"]
        )
        return schema

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON. What is infinite or not a number is text there."""
        head = {"bitwright": self._kind, "version": self._version} if self._kind else {}
        return {**head, **plain(self)}

    @classmethod
    def from_dict(cls, data: Any, source: str = "") -> Self:
        """Inverse of :meth:`to_dict`.

        Args:
            data: plain data.
            source: what it is called in messages.

        Raises:
            InvalidInput: of another kind or version, or a field that is missing, unknown or wrong.
        """
        from pydantic import ValidationError

        source = source or f"the {cls._kind or cls.__name__}"
        if cls._kind and isinstance(data, Mapping):
            for entry, wanted in (("bitwright", cls._kind), ("version", cls._version)):
                if (found := data.get(entry, wanted)) != wanted:
                    raise cls._error(
                        f"{source}: {entry} must be {wanted!r}, got {found!r}; make it again, or take the Bitwright "
                        "that made it"
                    )
            data = {key: value for key, value in data.items() if key not in ("bitwright", "version")}
        try:
            return _adapter(cls).validate_python(data)  # type: ignore[arg-type, no-any-return]
        except ValidationError as error:
            raise _fault(error, source, cls._error) from None

    def to_json(self) -> str:
        """The value as JSON text, see :func:`lines`."""
        return lines(self.to_dict()) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "") -> Self:
        """Read what :meth:`to_json` wrote; arguments and errors as in :meth:`from_dict`."""
        source = source or f"the {cls._kind or cls.__name__}"
        return cls.from_dict(parsed(text, source, cls._error), source)

    def save(self, path: str | Path) -> Any:
        """Write the value as JSON; the file is there whole or not at all."""
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file; errors as in :meth:`from_dict`."""
        return cls.from_json(cls._text(path), f"the {cls._kind} file '{path}'")

    @classmethod
    def _text(cls, path: str | Path) -> str:
        try:
            return read_bounded(path, MOST_BYTES).decode("utf-8")
        except OSError as error:
            raise cls._error(f"cannot read the {cls._kind} file '{path}': {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise cls._error(f"the {cls._kind} file '{path}' is not a text file") from None


def parsed(text: str, source: str, error: type[BitwrightError] = InvalidInput) -> Any:
    """JSON text as plain data, within bounds: of the depth, of the digits of a number, and each key of an object once.

    Raises:
        BitwrightError: of the kind ``error``, for text that is no JSON or beyond the bounds.
    """

    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"a number has {len(digits)} digits, more than {MOST_DIGITS}")
        return int(digits)

    def real(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError(f"the number {digits[:MOST_DIGITS]} is too large")
        return number

    def no_number(word: str) -> float:
        raise ValueError(f"{word} is no number in JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"the key {reprlib.repr(twice)} is there twice")
        return found

    try:
        hooks: dict[str, Any] = {"parse_int": whole, "parse_float": real, "parse_constant": no_number}
        data = json.loads(text, object_pairs_hook=once, **hooks)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode("utf-8")  # escapes can stand for what is no text
    except UnicodeEncodeError:
        raise error(f"{source} is not valid JSON: a part of a character is not text") from None
    except (ValueError, RecursionError) as fault:
        raise error(f"{source} is not valid JSON: {fault}") from None
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(MOST_DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [value for inner in parts for value in inner if isinstance(value, (dict, list))]
    if level:
        raise error(f"{source} is more than {MOST_DEPTH} levels deep, which no file of Bitwright's is")
    return data


def plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no word for is text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Value):
        return {name: plain(part) for name, part in value._written().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part) for part in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def lines(value: Any, indent: str = "") -> str:
    """Plain data as JSON text: each entry of an object on a line of its own, and so each object or list in a list."""
    deeper = f"\n{indent}  "
    if isinstance(value, dict) and value:
        parts = [f"{json.dumps(key)}: {lines(part, indent + '  ')}" for key, part in value.items()]
        return f"{{{deeper}{f',{deeper}'.join(parts)}\n{indent}}}"
    if isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value):
        return f"[{deeper}{f',{deeper}'.join(map(json.dumps, value))}\n{indent}]"
    return json.dumps(value)


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _fault(error: ValidationError, source: str, kind: type[InvalidInput]) -> BitwrightError:
    """The first fault in one line: where, what is wanted, and what is there."""
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    if first["type"] in ("missing", "unexpected_keyword_argument"):
        return kind(f"{source}: {path} {'is missing' if first['type'] == 'missing' else 'is not known here'}")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BitwrightError):  # of a value's own checks
        return type(cause)(f"{source}: {path and f'{path}: '}{cause}")
    wanted = re.sub(r"^(Input|Value) should ", "must ", first["msg"])
    wanted = "must be an object" if first["type"] == "dataclass_type" else wanted
    return kind(f"{source}{path and f': {path}'} {wanted}, got {reprlib.repr(first['input'])}")
