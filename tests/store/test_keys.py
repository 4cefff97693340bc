from __future__ import annotations

import functools
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from bitwright.errors import BitwrightWarning, InvalidInput
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


def loss(text: str, **known: object):
    """A function of the user's own, freshly made from its source."""
    space: dict[str, object] = {"__name__": "mine", **known}
    exec(text, space)
    return space["loss"]


LOSS = """
def helper(x):
    return x + 1
def loss(a, b, power=2, *, scale=1.0):
    return scale * helper(a - b) ** power
"""
EDITS = {
    "constant": LOSS.replace("x + 1", "x + 2"),
    "default": LOSS.replace("power=2", "power=3"),
    "keyword default": LOSS.replace("scale=1.0", "scale=2.0"),
    "operation": LOSS.replace("a - b", "a + b"),
    "name": LOSS.replace("** power", "** int(power)"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_function_has_another_key(edit: str) -> None:
    assert content_key(loss=loss(LOSS)) == content_key(loss=loss(LOSS))
    assert content_key(loss=loss(LOSS)) != content_key(loss=loss(EDITS[edit]))


def test_the_place_of_a_function_does_not_matter() -> None:
    assert content_key(loss=loss(LOSS)) == content_key(loss=loss("# a comment\n\n" + LOSS))


def test_lambdas_partials_and_closures_count_by_content() -> None:
    def power(by: object):
        return lambda a, b: (a - b) ** by

    functions = [
        lambda a, b: a - b,
        lambda a, b: b - a,
        functools.partial(loss(LOSS), power=1),
        functools.partial(loss(LOSS), power=2),
        functools.partial(loss(EDITS["constant"]), power=2),
        power(1),
        power(2),
        power(torch.zeros(2)),
        power(torch.ones(2)),
        power(torch.ones(2, dtype=torch.float64)),
        power(np.ones(2)),
        power({"a": 1}),
        power(torch.relu),
        power(torch.nn.functional.relu),
        power(torch.nn.CrossEntropyLoss()),
        power(torch.nn.CrossEntropyLoss(label_smoothing=0.1)),
    ]
    keys = [content_key(loss=function) for function in functions]
    assert len(set(keys)) == len(keys)
    assert keys == [content_key(loss=function) for function in functions]
    assert content_key(loss=power(torch.ones(2))) == content_key(loss=power(torch.ones(2)))


def test_globals_count_by_content_and_through_modules_of_ones_own() -> None:
    text = "def loss(a, b):\n    return FACTOR * mine.helper(a)\n"

    def using(factor: object, helper: str) -> str:
        module = types.ModuleType("mine_too")
        exec(helper, vars(module))
        return content_key(loss=loss(text, FACTOR=factor, mine=module))

    one, other = "def helper(x): return x", "def helper(x): return -x"
    assert using(1, one) == using(1, one)
    assert len({using(1, one), using(2, one), using(1, other)}) == 3


def test_callable_objects_count_by_class_and_state() -> None:
    class Loss:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def __call__(self, a: float, b: float) -> float:
            return self.scale * (a - b)

        def other(self, a: float, b: float) -> float:
            return self(a, b) + 1

    @dataclass(frozen=True)
    class Frozen:
        scale: float

        def __call__(self, a: float, b: float) -> float:
            return self.scale * a

    found = [Loss(1.0), Loss(2.0), Frozen(1.0), Frozen(2.0), Loss(1.0).other, Loss(2.0).other, Loss, Frozen]
    keys = [content_key(loss=each) for each in found]
    assert len(set(keys)) == len(keys)
    assert content_key(loss=Loss(1.0)) == keys[0]
    assert content_key(loss=Loss(1.0).other) == keys[4]


def test_a_function_that_calls_itself_has_a_key() -> None:
    text = "def loss(a, b): return loss(b, a) if a else 0\n"
    assert content_key(loss=loss(text)) == content_key(loss=loss(text))
    assert content_key(loss=loss(text)) != content_key(loss=loss(text.replace("0", "1")))


def test_what_cannot_be_known_is_never_shared() -> None:
    def using(value: object):
        return lambda a, b: (a, b, value)

    first, second = using(object()), using(object())
    with pytest.warns(BitwrightWarning, match="not used again in later runs, since what a object holds"):
        key = content_key(loss=first)
    assert content_key(loss=first) == key
    with pytest.warns(BitwrightWarning):
        assert content_key(loss=second) != key


def test_a_functions_key_is_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine_elsewhere.py").write_text(
        "import torch, math\nfrom enum import Enum\nclass Kind(Enum):\n    A = 1\n"
        "TABLE = {'a': torch.arange(3.), 'b': {3, 4, 'x'}, 'k': Kind.A}\n"
        "class Scale:\n    def __init__(self): self.by = math.pi\n    def __call__(self, x): return x * self.by\n"
        "SCALE = Scale()\n"
        "def loss(a, b, kind=Kind.A):\n"
        "    return SCALE(torch.nn.functional.relu(a - b)).mean(1) + sum(x for x in TABLE['b'])\n"
    )
    code = "from mine_elsewhere import loss; from bitwright.store import content_key as k; print(k(loss=loss))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(keys) == 1
