"""What every quantizer offers, whatever stands at the site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from bitwright.numerics.affine import Affine
from bitwright.values import Site

Recorder = Callable[[Tensor], None]


class Quantizer(nn.Module):
    """A module at a site: returns its input unchanged in float, and on its grid otherwise.

    Attributes:
        site: where it stands.
        bits: the width it simulates now, or None for float.
        recorder: when set, called with every tensor that passes, before anything else happens.
    """

    bits: int | None
    recorder: Recorder | None

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.bits = None
        self.recorder = None

    @abstractmethod
    def grid(self, bits: int) -> Affine:
        """The grid at a width."""

    @property
    @abstractmethod
    def calibrated(self) -> bool:
        """Whether a grid can be made."""

    def extra_repr(self) -> str:
        """Shown when the graph is printed."""
        return f"{self.site.name}, bits={self.bits or 'float'}"
