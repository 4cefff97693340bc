"""Arguments of other kinds than the annotations say end in one line, for every public function."""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.arguments import checked, is_a, told
from bitwright.errors import InvalidInput
from bitwright.testing.samples import calibrated

PUBLIC = [name for name in bw.__all__ if inspect.isfunction(getattr(bw, name))]


@runtime_checkable
class HasSites(Protocol):
    @property
    def sites(self) -> Any: ...


class TestKinds:
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (1, int), (np.int64(1), int), (1, float), (np.float32(1), float), (None, int | None), ("a", str | None),
            ([1, 2], Sequence[int]), ((1,), tuple[int, ...]), ([1], tuple[int, ...]), (["a"], Iterable[str]),
            ({"a": 1}, Mapping[str, int]), (len, Callable[..., Any]), ("b", Literal["a", "b"]), (object(), Any),
            (calibrated(), HasSites), (iter([1]), Iterable[str]),
        ],
    )  # fmt: skip
    def test_what_fits(self, value, kind):
        assert is_a(value, kind)

    @pytest.mark.parametrize(
        ("value", "kind", "words"),
        [
            (1.5, int, "a whole number"), ("1", float, "a number"), ("ab", Sequence[str], "a list"),
            (torch.ones(1), int | None, "a whole number or None"), ([1.5], Sequence[int], "a list"),
            ({1: 1}, Mapping[str, int], "a dictionary"),
            (1, Callable[..., Any], "a function"), ("c", Literal["a", "b"], "'a' or 'b'"), (1, bw.Graph, "a Graph"),
            (nn.Sequential(nn.ReLU()), str | Iterable[str], "a text or a list"), (1, HasSites | str, "a text"),
        ],
    )  # fmt: skip
    def test_what_does_not(self, value, kind, words):
        assert not is_a(value, kind)
        assert told(kind) == words


class TestChecked:
    def test_what_is_too_much_or_unknown(self):
        @checked
        def scale(values: Sequence[int], *, factor: float = 1.0) -> float:
            return sum(values) * factor

        assert scale([1, 2], factor=2) == 6
        with pytest.raises(InvalidInput, match=r"scale: too many positional arguments; by name it takes factor="):
            scale([1], 2)
        with pytest.raises(InvalidInput, match=r"scale: .*'facto'; did you mean 'factor'\?"):
            scale([1], facto=2)
        with pytest.raises(InvalidInput, match=r"scale: missing a required argument: 'values'"):
            scale()
        with pytest.raises(InvalidInput, match="values must be a list, got a list of float, int"):
            scale([1, 2.5])


class TestSurface:
    def test_a_policy_in_the_place_of_the_target_is_told_by_name(self):
        graph = calibrated()
        task = bw.tasks.Classification([], [])
        with pytest.raises(
            InvalidInput, match=r"target_drop must be a number, got a Policy; to give policy, write policy="
        ):
            bw.debug(graph, task, bw.Policy.uniform(graph.sites, 4, 8))

    def test_a_model_in_the_place_of_a_graph(self):
        with pytest.raises(InvalidInput, match=r"got a Linear; bw.capture\(model, example_inputs\) makes one"):
            bw.calibrate(nn.Linear(2, 2), [])

    @pytest.mark.parametrize("name", PUBLIC)
    def test_no_argument_of_a_wrong_kind_ends_in_a_raw_error(self, name):
        function = getattr(bw, name)
        parameters = inspect.signature(function).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        wrong = (None, 5, 0.5, "nonsense", [], {"a": 1}, torch.ones(2), nn.Linear(2, 2), nn.ReLU, object())
        for value in wrong:
            with pytest.raises(bw.BitwrightError) as caught:
                function(**dict.fromkeys(needed, value), unknown_argument=1)
            assert "\n" not in str(caught.value)
            for keyword in [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "measure"]:
                with pytest.raises(bw.BitwrightError):
                    function(*[object()] * len(needed), **{keyword: value})


def test_filters_and_environment_are_as_before_whatever_a_call_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    @checked
    def noisy(fails: bool) -> None:
        warnings.simplefilter("ignore")
        os.environ["BITWRIGHT_NEW"] = "1"
        os.environ["BITWRIGHT_OLD"] = "2"
        del os.environ["BITWRIGHT_GONE"]
        if fails:
            raise KeyError("fails")

    monkeypatch.setenv("BITWRIGHT_OLD", "1")
    monkeypatch.setenv("BITWRIGHT_GONE", "1")
    filters, environment = list(warnings.filters), dict(os.environ)
    for fails in (False, True):
        with contextlib.suppress(KeyError):
            noisy(fails)
        assert list(warnings.filters) == filters
        assert dict(os.environ) == environment


def test_a_function_that_takes_too_few_or_too_many_arguments_is_refused_before_anything_runs() -> None:
    ran = []

    @checked
    def work(
        progress: Callable[[int, int | None], None] | None = None, loss: Callable[..., float] | None = None
    ) -> None:
        ran.append(progress)

    for good in (None, lambda done, of: None, lambda *numbers: None, lambda done, of=None, more=3: None, print, max):
        work(good, lambda: 1.0)
    assert len(ran) == 6
    for bad, shown in ((lambda: None, "()"), (lambda one: None, "(one)"), (lambda a, b, c: None, "(a, b, c)")):
        with pytest.raises(InvalidInput) as caught:
            work(bad)
        line = f"progress must be a function that takes 2 arguments, got one with the parameters {shown}"
        assert str(caught.value) == line
    assert len(ran) == 6


def test_a_negative_seed_is_refused() -> None:
    @checked
    def draw(seed: int = 0) -> int:
        return seed

    assert draw(2**70) == 2**70
    with pytest.raises(InvalidInput, match="seed must be at least 0, got -1"):
        draw(seed=-1)
