"""Sensitivity tables: (site, bits) -> predicted harm, whatever method made them."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from bitwright.errors import InvalidInput, PolicyMismatch, nearest
from bitwright.values.json import As, Value
from bitwright.values.policy import Policy, check_bits

Array = Annotated[npt.NDArray[np.float64], As(lambda data: np.asarray(data, np.float64), "an array of numbers")]


def _phi(x: Array) -> Array:
    """Standard normal distribution function."""
    # Imported here: scipy is needed for predictions only, and `import bitwright` stays quick.
    from scipy.special import ndtr

    return np.asarray(ndtr(x))


def packed(values: Array) -> dict[str, Any]:
    """A large array for JSON: base64 of little-endian float32."""
    data = np.ascontiguousarray(values, dtype="<f4")
    return {"shape": list(data.shape), "float32": base64.b64encode(data.tobytes()).decode("ascii")}


def _unpacked(data: dict[str, Any]) -> Array:
    flat, shape = np.frombuffer(base64.b64decode(data["float32"], validate=True), dtype="<f4"), data["shape"]
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError("a shape is of whole numbers")
    return flat.reshape(shape).astype(np.float64)


Packed = Annotated[npt.NDArray[np.float64], As(_unpacked, "an array of 32-bit floats in base64 with its shape")]
FLIPS = "share of predictions that flip"
"""The unit of what a margin model predicts; the only one that is a share."""
ROSE = "fewer bits scored as less harm"
"""Why a site is not trusted whose harms had to be raised."""
_RISE, _LEAST = 0.1, 1e-6
"""A harm that is raised by a smaller part of itself, or to less than this part of the table's largest, is noise."""
_VARIANCES = np.logspace(-12, 6, 145)
"""Variances of a margin at which the distance to float is computed; in between it follows a power."""


@dataclass(frozen=True)
class MarginModel(Value):
    """What Margin-FIT keeps to predict a policy's flip rate (METHODS: Margin-FIT).

    Attributes:
        margins: (N,) m_n, difference of the two largest float logits of each sample.
        variances: (S, B) variance that each site at each width adds to the margin, on average over the samples.
        shares: (N, S) what each sample has of it, 1 on average: which samples react to a site, whatever the width. A
            factor of its own for each width would rest on a single product, and the chance of a flip on few samples.
    """

    margins: Packed
    variances: Array
    shares: Packed

    def _written(self) -> dict[str, Any]:
        return {**super()._written(), "margins": packed(self.margins), "shares": packed(self.shares)}

    def variance(self, rows: Sequence[int], columns: Sequence[int]) -> Array:
        """(N,) variance of each sample's margin with these sites at these widths, the rest in float."""
        return np.asarray(self.shares[:, list(rows)] @ self.variances[list(rows), list(columns)])

    def alone(self) -> tuple[Array, Array]:
        """(S, B) share of predictions that flip with each site alone at each width, and its standard error."""
        chances = self.flip_chances(self.shares[:, :, None] * self.variances)
        return chances.mean(0), chances.std(0, ddof=1) / math.sqrt(len(chances))

    def flip_chances(self, variance: Array) -> Array:
        """Phi(-m_n / sqrt(var_n)), the chance of each sample's prediction to change, (N, ...) like the variances."""
        deviation = np.sqrt(np.maximum(variance, 1e-300))
        return _phi(-self.margins.reshape(-1, *[1] * (deviation.ndim - 1)) / deviation)

    def flip_rate(self, variance: Array) -> float:
        """mean_n Phi(-m_n / sqrt(var_n)): expected share of predictions that change."""
        return float(self.flip_chances(variance).mean())

    def distance(self, variance: Array) -> Array:
        """Mean over the samples of the expected KL divergence to float, in nats, (...) for variances (N, ...).

        That of two classes whose logits are m_n apart: E[log(1 + exp(-m_n - e))] - log(1 + exp(-m_n)) with normal e.
        It is p (1 - p) / 2 times the variance where that is small, also where the chance of a flip is nil.
        """
        steps = np.diff(np.log(_VARIANCES))[0]
        place = np.log(np.maximum(variance, 1e-300) / _VARIANCES[0]) / steps
        left = np.clip(np.floor(place), 0, len(_VARIANCES) - 2).astype(int)
        rows = np.arange(len(self.margins)).reshape(-1, *[1] * (place.ndim - 1))
        low, high = (self._log_distances[rows, left + i] for i in (0, 1))
        return np.asarray(np.exp(low + (high - low) * (place - left)).mean(0))

    @cached_property
    def _log_distances(self) -> Array:
        """(N, V) logarithm of each sample's expected divergence at :data:`_VARIANCES`."""
        # Beyond 8 deviations nothing counts; a product of margin and node is not larger than a float64 can take.
        nodes = np.linspace(-8.0, 8.0, 129)
        weights = np.exp(-0.5 * nodes**2)
        chance = 1.0 / (1.0 + np.exp(np.minimum(self.margins, 500.0)))[:, None]
        found = np.zeros((len(self.margins), len(_VARIANCES)))
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            change = np.clip(node * np.sqrt(_VARIANCES), -600.0, 600.0)
            found += weight * (np.log1p(chance * np.expm1(change)) - chance * change)
        return np.asarray(np.log(np.maximum(found, 1e-300)))

    def flip_rate_slopes(self, variance: Array) -> Array:
        """(N,) derivative of each sample's flip probability by its variance, divided by N."""
        v = np.maximum(variance, 1e-12)
        z = self.margins / np.sqrt(v)
        density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return np.asarray(density * z / (2.0 * v) / len(v))


def falling(harm: Array) -> Array:
    """(..., B) harms that never rise with bits: each at least that of every wider width."""
    return np.asarray(np.maximum.accumulate(harm[..., ::-1], axis=-1)[..., ::-1])


@dataclass(frozen=True)
class SensitivityTable(Value, kind="sensitivity table", version=3):
    """Predicted harm of quantizing each site to each width, the rest in float.

    Attributes:
        method: e.g. ``"fit"``, ``"margin-fit"``, ``"one-site-kl"``.
        unit: what the harm is measured in, e.g. ``"share of predictions that flip"``.
        sites: (S,) site names, in the order of execution.
        bits: (B,) widths, ascending.
        harm: (S, B) predicted harm, >= 0 for all sums of squares.
        standard_error: (S, B) of the harm, from sampling, or None when the method has none.
        samples: inputs used.
        graph_hash: the graph it was made for.
        margin: set when predictions of whole policies go through a margin model, else they add up.
        parts: further (S,) columns worth showing, e.g. ``{"trace": ...}``.
        doubts: site -> why its harm is not trusted; nothing for the others.
        notes: sentences that qualify the numbers.
    """

    made_by: ClassVar[str] = "bw.sensitivity(graph, batches)"
    method: str
    unit: str
    sites: tuple[str, ...]
    bits: tuple[int, ...]
    harm: Array
    standard_error: Array | None = None
    samples: Annotated[int, Ge(0)] = 0
    graph_hash: str = ""
    margin: MarginModel | None = None
    parts: dict[str, Array] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        harm = np.asarray(self.harm, dtype=np.float64)
        if harm.shape != (len(self.sites), len(self.bits)):
            raise InvalidInput(
                f"harm must have shape (sites, bits) = ({len(self.sites)}, {len(self.bits)}), got {harm.shape}"
            )
        if not np.isfinite(harm).all():
            row = int(np.argwhere(~np.isfinite(harm))[0][0])
            raise InvalidInput(f"the harm of site '{self.sites[row]}' is not finite; check weights and data for NaN")
        object.__setattr__(self, "harm", harm)
        if len(set(self.sites)) < len(self.sites) or list(self.bits) != sorted(set(self.bits)):
            raise InvalidInput("sites must be there once each, and bits be ascending")
        for bits in self.bits:
            check_bits(bits, "every site")
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {"standard_error": (self.standard_error, harm.shape)}
        if self.margin is not None:
            samples = len(self.margin.margins) if self.margin.margins.ndim else 0
            shapes["margin.margins"] = (self.margin.margins, (samples,))
            shapes["margin.variances"] = (self.margin.variances, harm.shape)
            shapes["margin.shares"] = (self.margin.shares, (samples, len(self.sites)))
        shapes |= {f"parts[{name!r}]": (values, (len(self.sites),)) for name, values in self.parts.items()}
        for name, (values, shape) in shapes.items():
            if values is not None and np.shape(values) != shape:
                raise InvalidInput(f"{name} must have shape {shape}, got {np.shape(values)}")

    def checked(self) -> SensitivityTable:
        """The table with harms that never rise with bits; sites where they did are doubted, and a note says how many.

        Fewer bits make larger errors, and a small error is the better understood one: where a width has less harm than
        a wider one, it gets the wider one's. In a margin model this holds for the variances, so that whole policies and
        linearized tables have it, too.
        """
        if self.margin is None:
            found = replace(self, harm=falling(self.harm))
        else:
            margin = replace(self.margin, variances=falling(self.margin.variances))
            harm, error = margin.alone()
            found = replace(self, harm=harm, standard_error=error, margin=margin)
        enough = falling(self.harm)
        raised = (enough - self.harm > _RISE * enough) & (enough > _LEAST * enough.max(initial=0.0))
        rose = {site: ROSE for site, row in zip(self.sites, raised, strict=True) if row.any()}
        doubts = {site: "; ".join(d[site] for d in (self.doubts, rose) if site in d) for site in self.sites}
        found = replace(found, doubts={site: why for site, why in doubts.items() if why})
        return replace(found, notes=(*found.notes, *found.distrust))

    @property
    def distrust(self) -> tuple[str, ...]:
        """How many sites are not trusted, and why, as a sentence; nothing where all are."""
        if not self.doubts:
            return ()
        count = Counter(why for reasons in self.doubts.values() for why in reasons.split("; "))
        why = ", ".join(f"{words} ({number})" for words, number in count.most_common())
        share = len(self.doubts) / len(self.sites)
        return (
            f"{len(self.doubts)} of {len(self.sites)} sites ({share:.1%}) are not trusted: {why}. Measure what is "
            "chosen by these scores.",
        )

    def column(self, bits: int) -> int:
        """Position of a width, or raise :class:`InvalidInput`."""
        if bits not in self.bits:
            raise InvalidInput(f"the table has bits {self.bits}, not {bits}; make it again with bits=({bits}, ...)")
        return self.bits.index(bits)

    def row(self, site: str) -> int:
        """Position of a site, or raise :class:`InvalidInput`."""
        if site not in self.sites:
            raise InvalidInput(f"the table has no site '{site}'{nearest(site, self.sites)}")
        return self.sites.index(site)

    def at(self, site: str, bits: int) -> float:
        """Harm of one site at one width."""
        return float(self.harm[self.row(site), self.column(bits)])

    def _choices(self, policy: Policy) -> list[tuple[int, int]]:
        if policy.graph_hash and self.graph_hash and policy.graph_hash != self.graph_hash:
            raise PolicyMismatch(f"the policy was made for graph {policy.graph_hash}, the table for {self.graph_hash}")
        return [(self.row(site), self.column(bits)) for site, bits in policy.bits.items()]

    def predict(self, policy: Policy) -> float:
        """Predicted harm of a whole policy, in the table's unit; 0 for the float policy.

        Sites in float add nothing. With a margin model the variances of the sites add up and the flip
        rate follows from their sum; otherwise the harms add up.
        """
        chosen = self._choices(policy)
        if not chosen:
            return 0.0
        if self.margin is None:
            return float(sum(self.harm[s, b] for s, b in chosen))
        return self.margin.flip_rate(self.margin.variance([s for s, _ in chosen], [b for _, b in chosen]))

    def predict_at(self, policy: Policy, margins: Array) -> float:
        """The share of predictions that flip under a policy on samples with other margins, (N,).

        Their variances are taken for the mean of those of the table's samples.

        Raises:
            InvalidInput: a table without a margin model.
        """
        if self.margin is None:
            raise InvalidInput(f"the method {self.method} keeps no margins; make the table with method='margin-fit'")
        chosen = self._choices(policy)
        variance = self.margin.variance([s for s, _ in chosen], [b for _, b in chosen]).mean(keepdims=True)
        return replace(self.margin, margins=margins).flip_rate(variance)

    def linearized(self, policy: Policy) -> SensitivityTable:
        """A table whose harms add up, exact to first order around ``policy``; itself if they already do."""
        if self.margin is None:
            return self
        chosen = self._choices(policy)
        slopes = self.margin.flip_rate_slopes(self.margin.variance([s for s, _ in chosen], [b for _, b in chosen]))
        return replace(
            self,
            method=f"{self.method} (linearized)",
            harm=(slopes @ self.margin.shares)[:, None] * self.margin.variances,
            margin=None,
            standard_error=None,
        )

    def ranking(self, bits: int) -> list[tuple[str, float]]:
        """Sites by harm at a width, worst first."""
        order = np.argsort(-self.harm[:, self.column(bits)], kind="stable")
        return [(self.sites[i], float(self.harm[i, self.column(bits)])) for i in order]
