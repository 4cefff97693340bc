from __future__ import annotations

import base64
import struct
import zlib

from bitwright.report.pictures import HEIGHT, WIDTH, line, png


def test_a_line_fills_its_area_and_leaves_out_what_was_not_measured():
    assert line([(0, 4.0), (2, 2.0), (4, 3.0)], 5) == f"0.0,0.0 {WIDTH / 2},{HEIGHT:.1f} {WIDTH:.1f},{HEIGHT / 2}"
    assert line([(0, 1.0), (1, 1.0)], 2) == "0.0,0.0 300.0,0.0"


def test_a_picture_holds_its_pixels():
    rows = [[(1, 2, 3), (4, 5, 6)], [(7, 8, 9), (10, 11, 12)], [(0, 0, 0), (255, 255, 255)]]
    data = base64.b64decode(png(rows).removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (2, 3)
    (size,) = struct.unpack(">I", data[33:37])
    content = zlib.decompress(data[41 : 41 + size])
    wanted = [0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0, 255, 255, 255]
    assert list(content) == wanted


def test_a_grey_picture_has_one_number_a_pixel():
    data = base64.b64decode(png([[0, 7], [255, 9]]).partition(",")[2])
    assert data[24:26] == b"\x08\x00"
    (size,) = struct.unpack(">I", data[33:37])
    assert list(zlib.decompress(data[41 : 41 + size])) == [0, 0, 7, 0, 255, 9]
