from __future__ import annotations

import inspect
import json

import pytest

from bitwright import errors
from bitwright.errors import (
    BitwrightError,
    BitwrightWarning,
    InvalidInput,
    MissingExtra,
    by_users_code,
    first_line,
    nearest,
)

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


def test_everything_is_in_one_tree():
    assert all(issubclass(c, BitwrightError | BitwrightWarning) for c in CLASSES)


def test_the_docstring_draws_the_whole_tree():
    for c in CLASSES:
        assert c.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("c", [errors.InvalidPolicy, errors.PolicyMismatch, errors.InvalidData, errors.InvalidJob])
def test_unusable_input_can_be_caught_as_a_value_error(c):
    assert issubclass(c, InvalidInput)
    assert issubclass(c, ValueError)


def test_a_missing_extra_says_what_to_install():
    error = MissingExtra("onnxruntime", "onnx", "to run exported models")
    assert str(error) == (
        "the package 'onnxruntime' is needed to run exported models and is not installed; "
        "install it with: pip install 'bitwright[onnx]'"
    )
    assert (error.package, error.extra) == ("onnxruntime", "onnx")
    assert isinstance(error, ImportError)


@pytest.mark.parametrize(
    ("name", "found"),
    [("relu1", "; did you mean 'relu'?"), ("conv.weigth", "; did you mean 'conv.weight'?"), ("zzz", "")],
)
def test_the_nearest_name(name, found):
    assert nearest(name, iter(["relu", "conv.weight", "linear"])) == found


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n  no such file \nmore")) == "no such file"
    assert first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("call", "users"),
    [
        (lambda: {}["key"], True),
        (lambda: json.loads("{"), True),
        (lambda: errors.nearest(3, ["a"]), False),
    ],
)
def test_whose_code_failed(call, users):
    with pytest.raises(Exception) as caught:
        call()
    assert by_users_code(caught.value) is users
