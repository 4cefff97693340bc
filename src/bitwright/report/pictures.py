"""Pictures and curves of a page, which hold their own data."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.report import format as text
from bitwright.values import Measure

WIDTH, HEIGHT = 300, 90
"""Of a curve's drawing area."""


@dataclass(frozen=True)
class Curve:
    """One figure over the epochs.

    Attributes:
        label: what it is.
        points: of a line in an area of `WIDTH` x `HEIGHT`, as SVG writes them.
        first, last: its ends in words.
    """

    label: str
    points: str
    first: str
    last: str


def curves(columns: Iterable[tuple[str, Measure, Sequence[float | None]]]) -> tuple[Curve, ...]:
    """A curve of each (label, measure, values) that was measured more than once; None: not in this epoch."""
    found = []
    for label, measure, column in columns:
        values = [(i, value) for i, value in enumerate(column) if value is not None]
        if len(values) > 1:
            first, last = (text.value(measure, values[place][1]) for place in (0, -1))
            found.append(Curve(label, line(values, len(column)), first, last))
    return tuple(found)


def line(values: Sequence[tuple[int, float]], count: int) -> str:
    """Points (epoch from 0, value) as those of an SVG line that fills the drawing area."""
    low, high = min(value for _, value in values), max(value for _, value in values)
    spread, steps = (high - low) or 1.0, max(count - 1, 1)
    return " ".join(f"{WIDTH * x / steps:.1f},{HEIGHT * (high - y) / spread:.1f}" for x, y in values)


def png(pixels: Any) -> str:
    """A picture (H, W, 3), or grey (H, W), of whole numbers to 255, as an address that holds its data, as PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    values = np.asarray(pixels, np.uint8)
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = np.pad(values.reshape(height, -1), ((0, 0), (1, 0))).tobytes()  # each row begins with its filter, none
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()
