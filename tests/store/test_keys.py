from __future__ import annotations

import os
import subprocess
import sys
from pathlib import PurePosixPath

import numpy as np
import pytest

from bitwright.errors import InvalidInput
from bitwright.store import content_key
from bitwright.values import Budget, Policy


def test_order_does_not_matter() -> None:
    first = content_key(kind="verdict", settings={"a": 1, "b": [1, 2]}, names={"x", "y"})
    second = content_key(names={"y", "x"}, settings={"b": (1, 2), "a": 1}, kind="verdict")
    assert first == second
    assert len(first) == 32


@pytest.mark.parametrize("other", [1.0, True, "1", [1], None, {"x": 1}, 2])
def test_different_values_give_different_keys(other: object) -> None:
    assert content_key(x=1) != content_key(x=other)


def test_different_names_give_different_keys() -> None:
    assert content_key(x=1) != content_key(y=1)


def test_policy_counts_by_its_bits() -> None:
    first = Policy({"a": 4, "b": 8}, name="one")
    assert content_key(policy=first) == content_key(policy=Policy({"b": 8, "a": 4}, name="two"))
    assert content_key(policy=first) != content_key(policy=Policy({"a": 4, "b": 7}))
    assert content_key(policy=first) != content_key(policy=Policy({"a": 4}))


def test_numpy_scalars_count_as_numbers() -> None:
    assert content_key(x=np.int64(3), y=np.float64(0.1)) == content_key(x=3, y=0.1)


def test_dataclasses_and_paths_count_by_content() -> None:
    assert content_key(b=Budget("bops", 4.0)) == content_key(b={"metric": "bops", "limit": 4.0, "text": ""})
    assert content_key(p=PurePosixPath("a/b")) == content_key(p="a/b")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "cannot be made of nan at 'settings.lr'"),
        (np.zeros(3), "cannot be made of a ndarray at 'settings.lr'"),
        (object(), "cannot be made of a object at 'settings.lr'"),
        ({1: 2}, "string keys, got 1 at 'settings.lr'"),
    ],
)
def test_values_without_stable_content_are_refused(value: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        content_key(settings={"lr": value})


def test_same_key_in_another_process_with_another_hash_seed() -> None:
    code = "from bitwright.store import content_key as k; print(k(names={'x','y','z'}, a=0.1, b={'q': None}))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {content_key(names={"x", "y", "z"}, a=0.1, b={"q": None})}
