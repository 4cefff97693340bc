from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from bitwright.errors import InvalidInput
from bitwright.values.fitted import Fitted


def _fitted(**changes) -> Fitted:
    arrays = {
        "integers/4/a.weight": np.arange(-8, 8, dtype=np.int8).reshape(4, 4),
        "scale/4/a.weight": np.float32(0.25),
    }
    return replace(
        Fitted("0123", "abcd", {"repairs": ["adaround"]}, {k: np.asarray(v) for k, v in arrays.items()}), **changes
    )


def test_to_bytes_and_back():
    fitted = _fitted()
    for again in (Fitted.from_bytes(fitted.to_bytes()), Fitted.from_dict(json.loads(json.dumps(fitted.to_dict())))):
        assert (again.graph, again.recipe, again.about) == ("0123", "abcd", {"repairs": ["adaround"]})
        assert again.arrays.keys() == fitted.arrays.keys()
        for name, array in fitted.arrays.items():
            assert again.arrays[name].dtype == array.dtype
            assert again.arrays[name].shape == array.shape
            assert np.array_equal(again.arrays[name], array)
        assert again.checksum == fitted.checksum


def test_the_checksum_hangs_on_everything():
    fitted = _fitted()
    other = dict(fitted.arrays)
    other["integers/4/a.weight"] = other["integers/4/a.weight"].reshape(2, 8)
    changed = [
        _fitted(graph="0124"),
        _fitted(recipe="abce"),
        _fitted(about={}),
        _fitted(arrays=other),
        _fitted(arrays={**fitted.arrays, "scale/4/a.weight": np.asarray(np.float32(0.5))}),
    ]
    assert len({one.checksum for one in (fitted, *changed)}) == 6
    assert _fitted(arrays=dict(reversed(fitted.arrays.items()))).checksum == fitted.checksum


def test_bad_input_is_one_line(monkeypatch):
    whole = _fitted().to_bytes()
    for broken in (b"", b"no file", whole[: len(whole) // 2], whole[:60] + bytes(40) + whole[100:]):
        with pytest.raises(InvalidInput, match="'x.npz' is damaged, .*delete it to have the recipe fitted again"):
            Fitted.from_bytes(broken, "'x.npz'")
    monkeypatch.setattr("bitwright.values.fitted.FITTED_VERSION", 2)
    with pytest.raises(InvalidInput, match="the file has version 1, this Bitwright reads version 2"):
        Fitted.from_bytes(whole)


def _file(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return made.getvalue()


def _array(shape: tuple[int, ...], content: bytes, kind: str = "|u1") -> bytes:
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": kind, "fortran_order": False, "shape": shape})
    return made.getvalue() + content


def test_nothing_is_unpacked_that_is_far_larger_than_its_file(monkeypatch):
    monkeypatch.setattr("bitwright.values.fitted._ALWAYS_BYTES", 1 << 20)
    read = []
    monkeypatch.setattr(np.lib.format, "read_array", lambda *args, **kwargs: read.append(args))
    size = 8 << 20
    for bomb in (_file(bitwright=_array((size,), bytes(size))), _file(bitwright=_array((1 << 50,), bytes(9)))):
        with pytest.raises(InvalidInput, match="'x.npz' is damaged"):
            Fitted.from_bytes(bomb, "'x.npz'")
    assert read == []


def test_an_array_that_says_another_size_is_damaged():
    with pytest.raises(InvalidInput, match="is damaged"):
        Fitted.from_bytes(_file(bitwright=_array((10,), bytes(9))))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1j, "x"])
def test_arrays_hold_finite_numbers(value):
    data = _fitted(arrays={"scale/4/a.weight": np.asarray([0.5, value])}).to_bytes()
    with pytest.raises(InvalidInput, match="'scale/4/a.weight' must hold whole or finite numbers; put the right"):
        Fitted.from_bytes(data)


@pytest.mark.parametrize("wrong", [{"graph": 1}, {"recipe": None}, {"about": []}])
def test_the_head_is_checked(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Fitted.from_bytes(_fitted(**wrong).to_bytes(), "'x.npz'")
