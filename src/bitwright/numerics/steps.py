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
"""

from __future__ import annotations

import torch
from torch import Tensor

FRACTION_BITS = 6
PER_OCTAVE = 1 << FRACTION_BITS
SMALLEST_STEP = 2.0**-60


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


def short_step(step: Tensor) -> Tensor:
    """The smallest short step that is at least ``step``, as float32."""
    return step_at(position_of(step))
