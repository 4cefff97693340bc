"""Short step sizes: scales with few fraction bits, so that simulated sums are exact in float32.

Every product of two quantized numbers is integer * step * step. When the steps have short mantissas, float32 holds such
products, and sums of many of them, without rounding, and the order in which a library adds them up no longer matters.
The simulation in PyTorch and the exported file in another runtime then agree in every digit, instead of drifting apart
wherever a value falls near the middle between two grid points.

A grid of b bits has steps with 11 - b fraction bits, at least 3 and at most 6: a quantized number then has 12
significant bits, a product 24, and sums stay within float32's 24 because integers are rarely near the ends of their
range. The price is a step that is at most 1/64 (to 5 bits) to 1/8 (at 8 bits) larger than asked for; range searches
choose among short steps, so they pay nearly nothing. Beyond 8 bits sums are not exact, and one step of 65536 more or
less matters little.

Fused integer kernels need more: they multiply integer sums by step * step / step, a factor that float32 rounds. A sum
that lies exactly in the middle between two points of the output's grid then goes either way. Such ties need a step
ratio of small integers. So weights of up to 7 bits take steps whose mantissas have a large prime factor
(:func:`tie_free`), which no other step is likely to share: with weights of up to 5 bits no sum inside an output grid of
4 bits can be a tie then, and next to none in finer ones.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

FRACTION_BITS = 6
PER_OCTAVE = 1 << FRACTION_BITS
SMALLEST_STEP = 2.0**-60
# Mantissas with a large prime factor, as multiples of the smallest difference that a grid's steps have: for grids of up
# to 5 bits in 64ths (primes, or twice a prime where the next ones are far away), of 6 bits in 32nds, of 7 in 16ths.
_APART = {
    1: (67, 71, 73, 79, 83, 89, 94, 97, 101, 103, 107, 109, 113, 118, 122, 127),
    2: (34, 37, 38, 41, 43, 46, 47, 51, 53, 58, 59, 61, 62),
    4: (17, 19, 22, 23, 26, 29, 31),
}


def step_at(position: Tensor) -> Tensor:
    """The short step at an integer position: (1 + m/64) * 2^e with position = 64 e + m, as float32."""
    exponent = torch.div(position, PER_OCTAVE, rounding_mode="floor")
    mantissa = 1.0 + (position - exponent * PER_OCTAVE).double() / PER_OCTAVE
    return torch.ldexp(mantissa, exponent.to(torch.int32)).float()


def position_of(step: Tensor) -> Tensor:
    """Position of the smallest short step that is at least ``step`` (int64, any shape)."""
    fraction, exponent = torch.frexp(step.double().clamp_min(SMALLEST_STEP))
    # frexp gives a fraction in [0.5, 1); a relative slack of 1e-6 keeps a step that is short already where it is.
    offset = torch.ceil((2 * fraction - 1) * PER_OCTAVE - 1e-6).long()
    return (exponent.long() - 1) * PER_OCTAVE + offset


def stride(low: int, high: int) -> int:
    """Distance of the positions that a grid from ``low`` to ``high`` takes its steps from: 1 to 5 bits, 8 at 8 bits."""
    bits = (high - low).bit_length()
    fraction = FRACTION_BITS if bits > 8 else min(max(11 - bits, 3), FRACTION_BITS)
    return 1 << (FRACTION_BITS - fraction)


def rounded_up(position: Tensor, stride: int) -> Tensor:
    """The next position that is a multiple of ``stride``."""
    return -torch.div(-position, stride, rounding_mode="floor") * stride


def tie_free(position: Tensor, low: int, high: int) -> Tensor:
    """A position near by whose mantissa has a large prime factor, for weights on a grid of up to 7 bits.

    Up to 5 bits the nearest one: steps grow by at most 4 % and shrink by at most 3 %, which takes no value half a step
    out of the range. At 6 and 7 bits the next larger one, by at most 10 %. Wider grids keep their positions: few
    fraction bits leave no choice there, and ties are rare.
    """
    apart = stride(low, high)
    if apart not in _APART or high - low > 127:
        return position
    octave = torch.div(position, PER_OCTAVE, rounding_mode="floor") * PER_OCTAVE
    return octave + _apart(apart).to(position.device)[position - octave]


def next_larger(step: Tensor, low: int, high: int) -> Tensor:
    """The next larger short step, (...), of those that a grid from ``low`` to ``high`` takes; by a quarter at most."""
    apart = stride(low, high)
    return step_at(rounded_up(position_of(step) + apart, apart))


def keeps_middles(factors: Tensor, result: Tensor, largest: int = 255) -> Tensor:
    """Whether a sum of products in the middle between two result steps is still there for a fused kernel.

    Such a kernel multiplies the integer sum by ``factors / result``, rounded to float32, and rounds what comes out
    once more. That moves the middle n + 1/2 for some n, or for none. Only those count that some integer reaches.

    Args:
        factors: the product of the factors' steps, float32 and exact, as products of short steps are.
        result: steps of the result, which broadcast with it.
        largest: n up to which the middles count.

    Returns:
        bool, in the shape of the two together.
    """
    exact = (factors.double() / result.double()).unsqueeze(-1)
    rounded = (factors / result).double().unsqueeze(-1)
    middles = torch.arange(0.5, largest + 1, dtype=torch.float64, device=exact.device)
    products = middles / exact
    reached = (products - products.round()).abs() < 1e-6
    moved = (products.round() * rounded).float() != middles.float()
    return ~(reached & moved).any(-1)


@cache
def _apart(stride: int) -> Tensor:
    """(64,) for each position in an octave the one that :func:`tie_free` gives."""
    one = torch.tensor(_APART[stride]) * stride - PER_OCTAVE
    every = torch.cat([one - PER_OCTAVE, one, one + PER_OCTAVE])
    distance = step_at(every).log2() - step_at(torch.arange(PER_OCTAVE)).log2()[:, None]
    if stride > 1:
        distance[distance < 0] = torch.inf
    return every[distance.abs().argmin(1)]
