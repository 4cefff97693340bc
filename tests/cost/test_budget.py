from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.cost import Bops, Latency, Size, human, parse_budget, parse_budgets
from bitwright.errors import InvalidInput
from bitwright.values import FLOAT, Budget, Operation, Policy, Scheme, Site, Sites

SITES = Sites(
    (
        Site("x", "activation", (1, 4)),
        Site("w", "weight", (8, 16), Scheme(symmetric=True, granularity="channel", axis=0)),
    ),
    (Operation("conv", "conv2d", 100, "x", "w"),),
    other_parameters=5,
)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("bops=1.2G", 1.2e9),
        ("bops=3k", 3e3),
        ("bops=5e6", 5e6),
        ("BOPS = 7M", 7e6),
        ("size=250KB", 250e3),
        ("size=250 kb", 250e3),
        ("size=1.5MB", 1.5e6),
        ("size=2KiB", 2048),
        ("size=.5MiB", 2**19),
        ("size=99B", 99),
        ("size=99", 99),
        ("bops=30%", 0.3 * 100 * 1024),
        ("size=60%", 0.6 * (128 + 5) * 4),
        ("bops=W4A8", 100 * 4 * 8),
        ("bops=w4afloat", 100 * 4 * 32),
        ("bops=W8A32", 100 * 8 * 32),
        ("size=W4A8", 128 / 2 + 8 * 5 + 20),
        ("packed=W3A8", 128 * 3 / 8 + 8 * 4 + 20),
    ],
)
def test_budgets_in_plain_words(text: str, limit: float) -> None:
    budget = parse_budget(text, SITES)
    assert budget.limit == pytest.approx(limit, rel=1e-12)
    assert budget.metric == text.split("=")[0].strip().lower()


def test_uniform_and_percent_are_those_of_the_cost_models() -> None:
    assert parse_budget("packed=W3A4", SITES).limit == Size().of(Policy.uniform(SITES, 3, 4), SITES)
    assert parse_budget("bops=100%", SITES).limit == Bops().of(FLOAT, SITES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bops", "METRIC=LIMIT, got 'bops'; write it like one of: size="),
        ("bops=", "METRIC=LIMIT, got 'bops='"),
        ("=W4A4", "METRIC=LIMIT"),
        ("bop=W4A4", "unknown cost 'bop' in the budget 'bop=W4A4'; known are: size, bops, packed; did you mean 'bops'"),
        ("latency=2ms", "unknown cost 'latency'"),
        ("bops=many", "cannot read the limit of the budget 'bops=many'; write it like"),
        ("bops=-3G", "cannot read the limit"),
        ("bops=3GB", "unknown unit 'GB' in the budget 'bops=3GB'; bops takes k, m, g, t, p, %"),
        ("size=3q", "unknown unit 'q'"),
        ("size=0", "above 0 and finite, got 'size=0'"),
        ("bops=1e999", "above 0 and finite"),
        ("bops=W1A4", "'bops=W1A4' names a policy that does not exist: bits must be between 2 and 16, got 1"),
    ],
)
def test_unreadable_budgets(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_budget(text, SITES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given_",
    [
        "bops=W4A4,size=60%",
        "bops=W4A4 size=60%",
        "bops = W4A4 ; size = 60 %",
        ["bops=W4A4", "size=60%"],
        [Budget("bops", 1600.0, "bops=W4A4"), "size=60%"],
    ],
)
def test_several_budgets_at_once(given_: str | list[str | Budget]) -> None:
    bops, size = parse_budgets(given_, SITES)
    assert (bops.metric, bops.limit, bops.text) == ("bops", 1600.0, "bops=W4A4")
    assert (size.metric, size.text) == ("size", "size=60%")


def test_units_may_stand_apart_in_a_list_of_budgets() -> None:
    assert [b.limit for b in parse_budgets("size=250 KB bops=2 G", SITES)] == [250e3, 2e9]


def test_no_budget() -> None:
    with pytest.raises(InvalidInput, match="no budget given"):
        parse_budgets(" , ", SITES)
    with pytest.raises(InvalidInput, match="above 0 and finite, got nan"):
        parse_budget(Budget("bops", float("nan")), SITES)
    with pytest.raises(InvalidInput, match="unknown cost 'energy'"):
        parse_budget(Budget("energy", 1.0), SITES)


def test_latency_budgets_have_units_of_time() -> None:
    costs = {"latency": Latency({("conv", a, b): 0.5 for a in (8, None) for b in (8, None)})}
    assert parse_budget("latency=2ms", SITES, costs).limit == 2e-3
    assert parse_budget("latency=50%", SITES, costs).limit == 0.25


@given(st.floats(1e-3, 1e15), st.sampled_from(["bytes", "bit operations"]))
@settings(max_examples=100, deadline=None)
def test_human_text_reads_back_as_at_least_the_value(value: float, unit: str) -> None:
    metric = "size" if unit == "bytes" else "bops"
    limit = parse_budget(f"{metric}={human(value, unit, round_up=True)}", SITES).limit
    assert value * (1 - 1e-9) <= limit <= value * 1.002


def test_human_text() -> None:
    assert human(61345, "bytes") == "61.34KB"
    assert human(61341, "bytes", round_up=True) == "61.35KB"
    assert human(1.2e9, "bit operations") == "1.2G"
    assert human(0.0021, "seconds") == "2.1ms"
