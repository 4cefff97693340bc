from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.numerics.steps import (
    PER_OCTAVE,
    SMALLEST_STEP,
    position_of,
    rounded_up,
    step_at,
    stride,
    tie_free,
)

sizes = st.floats(1e-15, 1e15, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(sizes)
def test_a_short_step_is_the_next_one_up_and_at_most_a_64th_larger(size):
    step = float(step_at(position_of(torch.tensor(size, dtype=torch.float64))))
    assert size * (1 - 2e-8) <= step <= size * (1 + 1 / 64) * (1 + 1e-12)
    below = float(step_at(position_of(torch.tensor(step)) - 1))
    assert below < size * (1 + 2e-8)


@settings(max_examples=300, deadline=None)
@given(st.integers(-50 * PER_OCTAVE, 100 * PER_OCTAVE))
def test_a_short_step_stays_where_it_is(position):
    step = step_at(torch.tensor(position))
    assert int(position_of(step)) == position
    fraction, _ = math.frexp(float(step))
    assert (fraction * 2 * PER_OCTAVE).is_integer()


def test_64_positions_double_the_step():
    positions = torch.arange(-300, 300)
    torch.testing.assert_close(step_at(positions + PER_OCTAVE), 2 * step_at(positions), rtol=0, atol=0)
    assert (step_at(positions).diff() > 0).all()


@pytest.mark.parametrize(("bits", "fraction"), [(2, 6), (5, 6), (6, 5), (7, 4), (8, 3), (9, 6), (16, 6)])
@pytest.mark.parametrize("narrow", [0, 1])
def test_wider_grids_have_steps_with_fewer_fraction_bits(bits, fraction, narrow):
    assert stride(narrow, (1 << bits) - 1) == PER_OCTAVE >> fraction
    half = 1 << (bits - 1)
    assert stride(narrow - half, half - 1) == PER_OCTAVE >> fraction


def test_positions_are_rounded_up_to_multiples():
    assert rounded_up(torch.tensor([-9, -8, -1, 0, 1, 8]), 8).tolist() == [-8, -8, 0, 0, 8, 8]


def test_sums_of_8_bit_products_are_exact_in_float32_in_any_order():
    """A layer of 576 inputs of 8 bits, its partial sums as large as they are in trained networks."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        low, high = -100 * 8, 0
        positions = rounded_up(torch.randint(low, high, (2,), generator=generator), stride(0, 255))
        a = torch.randint(0, 64, (576,), generator=generator) * step_at(positions[0])
        w = torch.randint(-40, 41, (576,), generator=generator) * step_at(positions[1])
        exact = (a.double() * w.double()).sum().item()
        order = torch.randperm(576, generator=generator)
        assert float((a * w)[order].cumsum(0)[-1]) == exact
        assert float(a @ w) == exact


def test_zero_and_vanishing_steps_become_the_smallest():
    found = step_at(position_of(torch.tensor([0.0, 1e-300, -1.0], dtype=torch.float64)))
    assert found.tolist() == [SMALLEST_STEP] * 3


def test_sums_that_stay_below_a_thousand_integer_steps_are_exact_in_float32_in_any_order():
    """Two 7-bit mantissas leave 10 of float32's 24 bits for the integer sum."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(20):
        positions = torch.randint(-600, 0, (2,), generator=generator)
        a = torch.randint(0, 4, (150,), generator=generator) * step_at(positions[0])
        w = torch.randint(-2, 2, (150,), generator=generator) * step_at(positions[1])
        exact = float((a.double() * w.double()).sum())
        order = torch.randperm(150, generator=torch.Generator().manual_seed(trial))
        total = torch.tensor(0.0)
        for product in a[order] * w[order]:
            total = total + product
        assert float(total) == exact


@settings(max_examples=300, deadline=None)
@given(st.integers(-600, 600), st.integers(2, 16))
def test_weight_steps_of_few_bits_move_to_a_mantissa_with_a_large_prime(position, bits):
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    position = int(rounded_up(torch.tensor(position), stride(low, high)))
    found = tie_free(torch.tensor(position), low, high)
    if bits > 7:
        assert int(found) == position
        return
    ratio = float(step_at(found)) / float(step_at(torch.tensor(position)))
    if bits <= 5:  # 15 steps that reach the largest weight reach half a step from it at least
        assert 1 / 1.03 <= ratio <= 1.04
    else:
        assert 1 <= ratio <= 1.1001
    assert int(found) % stride(low, high) == 0
    assert int(tie_free(found, low, high)) == int(found)
    fraction, _ = math.frexp(float(step_at(found)))
    rest, largest = int(fraction * 2 * PER_OCTAVE), 1
    for divisor in range(2, 128):
        while rest % divisor == 0:
            rest, largest = rest // divisor, divisor
    assert largest >= {6: 17, 7: 11}.get(bits, 47)


@settings(max_examples=300, deadline=None)
@given(st.integers(-200, 0), st.integers(-200, 0), st.integers(-200, 200), st.integers(2, 4))
def test_no_sum_inside_an_output_grid_of_4_bits_is_a_tie_that_a_rounded_factor_could_break(a, w, out, bits):
    """All sums that fall exactly between two grid points, by brute force; where the factor is exact they do no harm."""
    steps = [step_at(torch.tensor(a)), step_at(tie_free(torch.tensor(w), -8, 7)), step_at(torch.tensor(out))]
    left, right, result = (Fraction(float(step)) for step in steps)
    factor = left * right / result
    if Fraction(float(torch.tensor(float(factor)))) == factor:
        return
    largest = min(int((1 << bits) / factor) + 1, 200_000)
    ties = [n for n in range(largest) if (n * factor).denominator == 2]
    assert not ties
