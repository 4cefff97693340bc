"""Short step sizes: scales with six fraction bits, so that simulated sums are exact in float32.

Every product of two quantized numbers is integer * step * step. When the steps have short mantissas, float32 holds such
products, and sums of them up to about a thousand integer steps, without rounding, and the order in which a library adds
them up no longer matters.
The simulation in PyTorch and the exported file in another runtime then agree in every digit at low widths, instead of
drifting apart wherever a value falls near the middle between two grid points. The price is a step that is at most 1/64
larger than asked for; range searches choose among short steps, so they pay nearly nothing.
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


def short_step(step: Tensor) -> Tensor:
    """The smallest short step that is at least ``step``, as float32."""
    return step_at(position_of(step))
