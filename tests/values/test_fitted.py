from __future__ import annotations

import json
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
