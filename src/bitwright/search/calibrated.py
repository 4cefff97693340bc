"""Calibrated prediction: scores corrected by measured policies, with an interval for each figure.

The logarithm of the measured distance is that of the predicted harm, plus a constant, plus what the scores get wrong: a
ratio between the harms of weights and of activations, and a factor for each site, shrunk towards 1 as far as the
measurements leave it open. To first order log(sum_s h_s exp(t_s)) = log H + sum_s (h_s / H) t_s, so the factors are
the weights of a linear model whose features are the sites' parts of the predicted harm: a Gaussian process with a
linear kernel. The ratio, how far the factors may be off, and how much is left over are not chosen but averaged over,
each choice weighted by how likely it makes the measurements; so intervals stay honest with a dozen of them.

Other figures are smooth functions of the predicted distance: a Gaussian process in one dimension.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.arguments import checked
from bitwright.errors import InvalidInput
from bitwright.values import Interval, Policy, SensitivityTable, Sites, Verdict

Floats = npt.NDArray[np.float64]

SLOPE, OTHERS = 0.3, 0.5
"""Standard deviation of the power of the predicted harm around 1, and of the weights of differences between scores."""
RATIOS, RATIO = tuple(range(-4, 5)), 2.0
"""Logarithms of the ratio between weights and activations that are averaged over, and their standard deviation."""
KIND = 0.3
"""Standard deviation, between two of these, of the logarithms of the factors of weights and of activations."""
EACH = (0.0, 0.7, 1.5)
"""Standard deviations of the logarithms of the sites' factors."""
BENT = (0.0, 0.5, 1.0, 2.0)
"""Standard deviations of what bends the curve of a figure over the predicted distance."""
LEFT = (0.03, 0.07, 0.13, 0.22, 0.37, 0.7)
"""Standard deviations of what is left over."""
FEWEST = 6
"""Measured policies below which no prediction is to be trusted."""
_LIKELY = 1e-3
"""Choices that make the measurements less likely than this part of the likeliest one are left out."""
_RANKED, _COVERED, _BEYOND = 0.5, 0.7, 1.0
"""Least cross-validated rank correlation that is trusted; least part of the intervals' level; and by how much, as a
logarithm, a predicted harm may lie beyond that of every measured policy."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted of a policy.

    Attributes:
        figures: name -> value with the interval in which a measurement of it is expected.
        doubt: why this is not to be trusted; empty where nothing speaks against it.
    """

    figures: Mapping[str, Interval]
    doubt: str = ""

    @property
    def distance(self) -> Interval:
        """The first figure: how far the outputs are from float's."""
        return next(iter(self.figures.values()))


@checked
def calibrated(
    scores: SensitivityTable | Sequence[SensitivityTable],
    sites: Sites | Any,
    measured: Mapping[Policy, Verdict | float],
    *,
    level: float = 0.9,
) -> Calibrated:
    """Learn from measured policies what any policy would measure.

    Args:
        scores: the table of one method or of several; those of several are averaged, as logarithms.
        sites: a captured graph, or its sites.
        measured: policy -> its verdict, or its distance from float alone. A dozen is enough to start with; the half of
            a policy that has its weights alone, or its activations alone, tells their scales apart.
        level: part of the measurements that the intervals are to hold.

    Raises:
        InvalidInput: nothing measured, a distance that is not finite, tables of different sites, or a level outside
            0 to 1.
    """
    tables = (scores,) if isinstance(scores, SensitivityTable) else tuple(scores)
    if not tables or any(table.sites != tables[0].sites for table in tables):
        raise InvalidInput("scores must be one table, or several for the same sites")
    if not 0.0 < level < 1.0:
        raise InvalidInput(f"level must be between 0 and 1, got {level}")
    if not measured:
        raise InvalidInput("measured is empty; measure some policies first, e.g. 12 with bw.evaluate")
    own = sites if isinstance(sites, Sites) else sites.sites
    return Calibrated(tables, own, dict(measured), level)


class Calibrated:
    """Predictions of measured figures: what :func:`calibrated` makes.

    Attributes:
        tables: the scores.
        sites: of the graph.
        measured: policy -> its verdict or its distance.
        level: of the intervals.
        fitted: whether the measured distance grows with the predicted harm at all. Where it does not, predictions are
            those of the scores.
        spearman: rank correlation of measured distances with those predicted from all other measurements; NaN where
            fewer than 3 were measured.
        covered: part of the measured distances inside the intervals that were predicted from all others.
        doubts: why no prediction is to be trusted, one sentence each; empty where nothing speaks against them.
    """

    def __init__(
        self,
        tables: tuple[SensitivityTable, ...],
        sites: Sites,
        measured: Mapping[Policy, Verdict | float],
        level: float,
    ) -> None:
        self.tables, self.sites, self.level = tables, sites, level
        self.measured = dict(measured)
        self._policies = list(self.measured)
        harms = [harm_of(found) for found in self.measured.values()]
        for policy, harm in zip(self._policies, harms, strict=True):
            if not math.isfinite(harm):
                raise InvalidInput(f"a measured distance must be finite, got {harm} for the policy '{policy.name}'")
        self._harms = np.array(harms)
        shown = [i for i, p in enumerate(self._policies) if self._total(p) > 0.0 and self._harms[i] > 0.0]
        self._used = [self._policies[i] for i in shown]
        self._logs = np.log(self._harms[shown])
        self._weights = np.array([sites[name].kind == "weight" for name in tables[0].sites])
        self.fitted, self.spearman, self.covered = False, math.nan, math.nan
        if len(self._used) >= 2:
            self._fit()
        self.doubts = self._doubts()

    # The model of the distance.

    def _fit(self) -> None:
        parts = self._parts(self._used)
        self._center = [float(base.mean()) for base in parts.bases]
        targets = [self._logs - base for base in parts.bases]
        self._shift = [float(target.mean()) for target in targets]
        options = list(_OPTIONS)
        self._mixture = Mixture(
            [parts.features(option, self._center) for option in options],
            [targets[place] - self._shift[place] for place, _ in options],
            priors=[-0.5 * (RATIOS[place] / RATIO) ** 2 for place, _ in options],
        )
        mean, deviation = self._mixture.left_out(self._offsets(parts))
        self._left_out = mean
        reach = _reach(self.level)
        if len(self._used) > 2:
            self.spearman = _spearman(mean, self._logs)
            self.covered = float((np.abs(self._logs - mean) <= reach * deviation).mean())
        likely = self._mixture.averaged([parts.bases[place] for place, _ in _OPTIONS])
        self.fitted = _spearman(likely, self._logs) > 0.0

    def _offsets(self, parts: _Parts) -> list[Floats]:
        return [parts.bases[place] + self._shift[place] for place, _ in _OPTIONS]

    def _doubts(self) -> tuple[str, ...]:
        count, found = len(self._policies), []
        if not self.fitted:
            why = (
                "quantization changes nothing that was measured"
                if not self._harms.any()
                else "the measured distance does not grow with the predicted harm"
            )
            return (f"{why}, so predictions are those of the scores",)
        if count < FEWEST:
            found.append(f"only {count} policies were measured, of at least {FEWEST}")
        elif self.spearman < _RANKED:
            found.append(
                f"each measurement predicted from the others, the rank correlation is {self.spearman:.2f}, below "
                f"{_RANKED}"
            )
        if count >= FEWEST and self.covered < _COVERED * self.level:
            found.append(f"of the measurements, {self.covered:.0%} lie in the intervals predicted from the others")
        return tuple(found)

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the predictions as a whole."""
        return not self.doubts

    def _total(self, policy: Policy) -> float:
        return min(float(_contributions(table, [policy]).sum()) for table in self.tables)

    def _parts(self, policies: Sequence[Policy]) -> _Parts:
        return _Parts(self.tables, self._weights, policies)

    def _distances(self, policies: Sequence[Policy]) -> tuple[Floats, Floats, Floats]:
        """Of the logarithm of the distance: mean, deviation without what is left over, deviation of a measurement."""
        parts = self._parts(policies)
        features = [parts.features(option, self._center) for option in _OPTIONS]
        return self._mixture.predict(features, self._offsets(parts))

    # What users ask.

    def harm(self, policy: Policy) -> float:
        """The predicted distance from float of a policy; 0 for the float policy; the score's harm where not fitted."""
        if not self.fitted:
            return self.tables[0].predict(policy)
        if not self._total(policy) > 0.0:
            return 0.0
        return float(np.exp(self._distances([policy])[0][0]))

    def predict(self, policy: Policy) -> Prediction:
        """Every figure that was measured, predicted for a policy.

        Raises:
            InvalidInput: a site or a width that was not scored.
        """
        if not self.fitted:
            unknown = Interval(self.harm(policy), 0.0, math.inf, self.level, "none")
            return Prediction({self._distance: unknown}, self.doubts[0])
        if not self._total(policy) > 0.0:
            return Prediction({self._distance: Interval(0.0, 0.0, 0.0, self.level, "none")})
        (mean,), _, (deviation,) = self._distances([policy])
        reach = _reach(self.level) * deviation
        low, value, high = (float(np.exp(x)) for x in (mean - reach, mean, mean + reach))
        figures = {self._distance: Interval(value, low, high, self.level, "Gaussian process")}
        figures |= {name: curve.at(float(mean), self.level) for name, curve in self._curves.items()}
        return Prediction(figures, "; ".join((*self.doubts, *self._beyond(policy))))

    def _beyond(self, policy: Policy) -> Iterable[str]:
        known, (value,) = (self._parts(policies).bases[_ALIKE] for policies in (self._used, [policy]))
        if value > known.max() + _BEYOND:
            yield "its predicted harm is far above that of every measured policy"
        if value < known.min() - _BEYOND:
            yield "its predicted harm is far below that of every measured policy"

    @property
    def _distance(self) -> str:
        first = next(iter(self.measured.values()))
        return first.distance_name if isinstance(first, Verdict) else "distance"

    @cached_property
    def _curves(self) -> dict[str, Curve]:
        """Name -> curve of the primary figure and of the agreement with float, where they were measured."""
        verdicts = [self.measured[policy] for policy in self._used]
        if not all(isinstance(verdict, Verdict) for verdict in verdicts):
            return {}
        first = verdicts[0]
        assert isinstance(first, Verdict)
        names = dict.fromkeys((first.primary_name, first.agreement_name))
        curves = {}
        for name in names:
            if name in first.figures and name != first.distance_name:
                values = [v.figures[name].value.value for v in verdicts if isinstance(v, Verdict)]
                share = first.samples if first.figures[name].measure.unit == "share" else None
                curves[name] = Curve(self._left_out, np.array(values), share)
        return curves

    # What the search asks.

    def table(self, seed: int | None = None) -> SensitivityTable:
        """The first table with the harm of each site multiplied by its factor; itself where nothing was fitted.

        With a margin model the factors multiply the variances.

        Args:
            seed: None: the expected factors; a number draws them as likely as the measurements leave them.
        """
        table = self.tables[0]
        if not self.fitted:
            return table
        factors = np.exp(self._drawn(seed))
        error = table.standard_error
        return replace(
            table,
            method=f"{table.method} (calibrated)",
            harm=table.harm * factors[:, None],
            standard_error=None if error is None else error * factors[:, None],
            margin=None
            if table.margin is None
            else replace(table.margin, variances=table.margin.variances * factors[:, None]),
        )

    def _drawn(self, seed: int | None) -> Floats:
        """(S,) logarithms of the sites' factors."""
        found = np.zeros(len(self._weights))
        for share, place, weights in self._members(seed):
            found += share * self._factors(place, weights)
        return found

    def _members(self, seed: int | None) -> Iterable[tuple[float, int, Floats]]:
        generator = None if seed is None else np.random.default_rng(seed)
        for which, share, weights in self._mixture.weights(generator):
            place, each = _OPTIONS[which]
            scaled = weights.copy()
            scaled[-len(self._weights) :] *= each
            yield share, place, scaled

    def _factors(self, place: int, weights: Floats) -> Floats:
        count, half = len(self._weights), RATIOS[place] / 2
        kind = KIND * weights[-count - 2 : -count]
        return np.asarray(weights[-count:] + np.where(self._weights, half + kind[0], kind[1] - half))

    def gain(self, seed: int, held: Policy, other: Policy) -> float:
        """How much smaller the distance of another policy is than that of the one held, relative, in one draw."""
        parts = self._parts([held, other])
        generator = np.random.default_rng(seed)
        ((which, _, weights),) = self._mixture.weights(generator)
        option = _OPTIONS[which]
        before, after = parts.bases[option[0]] + parts.features(option, self._center) @ weights
        return max(0.0, 1.0 - math.exp(after - before))


_OPTIONS = tuple(itertools.product(range(len(RATIOS)), EACH))
"""(position of the ratio, deviation of the sites' factors) that are averaged over."""
_ALIKE = RATIOS.index(0)


class _Parts:
    """What is known of P policies before any was measured.

    Attributes:
        bases: for each ratio (P,) logarithms of the predicted harm.
    """

    def __init__(self, tables: Sequence[SensitivityTable], weights: Any, policies: Sequence[Policy]) -> None:
        self._weights = weights
        harms = [_contributions(table, policies) for table in tables]
        variances = [_variances(table, policies, weights) for table in tables]
        self.bases, self._apart, self._shares = [], [], []
        for ratio in RATIOS:
            up, down = math.exp(ratio / 2), math.exp(-ratio / 2)
            logs = np.stack(
                [
                    np.log(np.maximum(_predicted(table, up * own[0] + down * own[1]), 1e-300))
                    for table, own in zip(tables, variances, strict=True)
                ],
                1,
            )
            scaled = [harm * np.where(weights, up, down) for harm in harms]
            shares = [harm / np.maximum(harm.sum(1, keepdims=True), 1e-300) for harm in scaled]
            self.bases.append(np.asarray(logs.mean(1)))
            self._apart.append(logs[:, 1:] - logs[:, :1])
            self._shares.append(np.mean(shares, 0))

    def features(self, option: tuple[int, float], center: Sequence[float]) -> Floats:
        """(P, F), scaled by the standard deviations that their weights have."""
        place, each = option
        shares = self._shares[place]
        alike = np.stack([shares[:, self._weights].sum(1), shares[:, ~self._weights].sum(1)], 1)
        level = SLOPE * (self.bases[place] - center[place])[:, None]
        return np.concatenate([level, OTHERS * self._apart[place], KIND * alike, each * shares], 1)


class Mixture:
    """Gaussian processes with different features and amounts left over, averaged by their likelihoods.

    Args:
        features: (N, F) arrays, one for each choice.
        targets: (N,) for each, around 0; a constant is part of the model.
        scale: of the targets, for :data:`LEFT`.
        kernel: of each choice; None: linear.
        priors: logarithm of how likely each choice is before anything is measured; None: all alike.
    """

    def __init__(
        self,
        features: Sequence[Floats],
        targets: Sequence[Floats],
        scale: float = 1.0,
        kernel: Callable[[int], Any] | None = None,
        priors: Sequence[float] | None = None,
    ) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import DotProduct

        self._members, likely = [], []
        for which, (rows, target) in enumerate(zip(features, targets, strict=True)):
            for left in LEFT:
                made = DotProduct(1.0, "fixed") if kernel is None else kernel(which)
                process = GaussianProcessRegressor(made, alpha=(left * scale) ** 2, optimizer=None).fit(rows, target)
                self._members.append((which, left * scale, process))
                likely.append(process.log_marginal_likelihood_value_ + (priors[which] if priors else 0.0))
        shares = np.exp(np.array(likely) - max(likely))
        self._members = [member for member, share in zip(self._members, shares, strict=True) if share >= _LIKELY]
        self._shares = shares[shares >= _LIKELY] / shares[shares >= _LIKELY].sum()

    def averaged(self, values: Sequence[Floats]) -> Floats:
        """What each choice has, averaged like the predictions."""
        return np.asarray(self._shares @ np.array([values[which] for which, _, _ in self._members]))

    def _averaged(self, means: Floats, variances: Floats) -> tuple[Floats, Floats]:
        mean = self._shares @ means
        return mean, np.sqrt(np.maximum(self._shares @ (variances + (means - mean) ** 2), 1e-300))

    def predict(self, features: Sequence[Floats], offsets: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
        """Mean; deviation of the mean; deviation of a measurement, of (P, F) features for each choice.

        Args:
            features: (P, F) for each choice.
            offsets: (P,) what its targets were taken from.
        """
        found = [process.predict(features[which], return_std=True) for which, _, process in self._members]
        means = np.array([m + offsets[which] for (m, _), (which, _, _) in zip(found, self._members, strict=True)])
        variances = np.array([d for _, d in found]) ** 2
        left = np.array([left for _, left, _ in self._members])[:, None] ** 2
        mean, sure = self._averaged(means, variances)
        return mean, sure, self._averaged(means, variances + left)[1]

    def left_out(self, offsets: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Mean and deviation of each target, predicted from all others (Rasmussen and Williams, equation 5.12)."""
        from scipy.linalg import cho_solve

        means, variances = [], []
        for which, _, process in self._members:
            target = process.y_train_
            inverse = np.diag(cho_solve((process.L_, True), np.eye(len(target))))
            means.append(offsets[which] + target - process.alpha_ / inverse)
            variances.append(1.0 / inverse)
        return self._averaged(np.array(means), np.array(variances))

    def weights(self, generator: np.random.Generator | None) -> list[tuple[int, float, Floats]]:
        """(choice, share, (F,) weights) of the features: expected ones of each choice, or drawn ones of a drawn one."""
        if generator is None:
            return [
                (which, float(share), process.X_train_.T @ process.alpha_)
                for share, (which, _, process) in zip(self._shares, self._members, strict=True)
            ]
        from scipy.linalg import solve_triangular

        which, left, process = self._members[int(generator.choice(len(self._members), p=self._shares))]
        rows = process.X_train_
        # A draw of the prior, moved by what it gets wrong of the measurements (Matheron's rule).
        prior = generator.standard_normal(rows.shape[1])
        wrong = (
            process.y_train_ - rows @ prior - generator.standard_normal() - left * generator.standard_normal(len(rows))
        )
        half = solve_triangular(process.L_, wrong, lower=True)
        moved = prior + rows.T @ solve_triangular(process.L_, half, lower=True, trans=1)
        return [(which, 1.0, moved)]


class Curve:
    """A figure as a smooth function of the logarithm of the distance.

    Args:
        at: (N,) logarithms of distances, each predicted from the other measurements.
        values: (N,) measured values.
        samples: that a share was counted on, whose logarithm of the odds is the smooth function; None: no share.
    """

    def __init__(self, at: Floats, values: Floats, samples: int | None) -> None:
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

        self._samples = samples
        target = self._turned(values)
        self._center, self._middle = float(at.mean()), float(target.mean())
        self._width = max(float(at.std()), 1e-6)
        self._scale = max(float(target.std()), 1e-6)

        def kernel(which: int) -> Any:
            bent = ConstantKernel(max(BENT[which], 1e-3) ** 2, "fixed") * RBF(1.0, "fixed")
            return ConstantKernel(self._scale**2, "fixed") * (DotProduct(1.0, "fixed") + bent)

        rows = ((at - self._center) / self._width)[:, None]
        self._mixture = Mixture([rows] * len(BENT), [target - self._middle] * len(BENT), self._scale, kernel)

    def _turned(self, values: Floats) -> Floats:
        if self._samples is None:
            return values
        count = values * self._samples
        return np.asarray(np.log((count + 0.5) / (self._samples - count + 0.5)))

    def _back(self, value: float) -> float:
        if self._samples is None:
            return value
        part = 1.0 / (1.0 + math.exp(-value))
        return min(1.0, max(0.0, (part * (self._samples + 1) - 0.5) / self._samples))

    def at(self, place: float, level: float) -> Interval:
        """The figure at one logarithm of the distance."""
        rows = np.array([[(place - self._center) / self._width]])
        (mean,), _, (deviation,) = self._mixture.predict([rows] * len(BENT), [np.zeros(1)] * len(BENT))
        middle, reach = float(mean) + self._middle, _reach(level) * float(deviation)
        found = Interval(middle, middle - reach, middle + reach, level, "Gaussian process").mapped(self._back)
        if self._samples is None:
            return found
        # What is measured is a whole number of samples.
        low, high = math.floor(found.low * self._samples), math.ceil(found.high * self._samples)
        return replace(found, low=low / self._samples, high=high / self._samples)


def harm_of(found: Verdict | float) -> float:
    """What counts of a measurement: the distance of a verdict, or the number."""
    return found.distance.value if isinstance(found, Verdict) else float(found)


def spread(
    table: SensitivityTable, sites: Sites, policies: Sequence[Policy], count: int, known: Sequence[Policy] = ()
) -> list[Policy]:
    """The policies that best fill the space of predicted harm and of the part that weights have in it.

    Each is the one farthest from those before it (Gonzalez, 1985): what to measure before anything is known.

    Args:
        table: predicted harm.
        sites: of the graph.
        policies: to choose from.
        count: how many.
        known: policies that were measured already.
    """
    rest = [policy for policy in dict.fromkeys(policies) if policy not in set(known)]
    if not rest:
        return []
    weights = np.array([sites[name].kind == "weight" for name in table.sites])
    everything = [*known, *rest]
    harms = _contributions(table, everything)
    total = np.maximum(harms.sum(1), 1e-300)
    places = np.stack([np.log(total), 2.0 * harms[:, weights].sum(1) / total], 1)
    places[:, 0] /= max(float(places[:, 0].std()), 1e-6)
    taken = list(range(len(known))) or [int(np.argsort(places[:, 0])[len(places) // 2])]
    chosen = [] if known else taken[:1]
    gaps = np.min(np.linalg.norm(places[:, None] - places[None, taken], axis=2), axis=1)
    while len(chosen) < min(count, len(rest)):
        gaps[taken] = -1.0
        gaps[chosen] = -1.0
        farthest = int(np.argmax(gaps))
        chosen.append(farthest)
        gaps = np.minimum(gaps, np.linalg.norm(places - places[farthest], axis=1))
    return [everything[i] for i in chosen[:count]]


def _variances(table: SensitivityTable, policies: Sequence[Policy], weights: Any) -> tuple[Floats, Floats]:
    """What weights and activations predict: (P,) harms, or (N, P) variances with a margin model."""
    found: tuple[list[Floats], list[Floats]] = ([], [])
    for policy in policies:
        places = [(table.row(s), table.column(b)) for s, b in policy.bits.items()]
        for values, wanted in zip(found, (True, False), strict=True):
            rows, columns = (
                [r for r, _ in places if weights[r] == wanted],
                [c for r, c in places if weights[r] == wanted],
            )
            if table.margin is None:
                values.append(np.asarray(table.harm[rows, columns].sum()))
            else:
                values.append(table.margin.variance(rows, columns))
    return np.stack(found[0], axis=-1), np.stack(found[1], axis=-1)


def _predicted(table: SensitivityTable, total: Floats) -> Floats:
    """(P,) predictions on a scale that grows like a distance: sums of harms, or the distances of a margin model."""
    return total if table.margin is None else np.asarray(table.margin.distance(total))


def _contributions(table: SensitivityTable, policies: Sequence[Policy]) -> Floats:
    """(P, S) harms, or variances, of the sites under the policies."""
    harms = table.harm if table.margin is None else table.margin.variances
    found = np.zeros((len(policies), len(table.sites)))
    for i, policy in enumerate(policies):
        for site, bits in policy.bits.items():
            row = table.row(site)
            found[i, row] = max(float(harms[row, table.column(bits)]), 0.0)
    return found


def _reach(level: float) -> float:
    """Deviations on either side that hold this part of a normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))


def _spearman(x: Floats, y: Floats) -> float:
    from scipy.stats import rankdata

    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0.0 else 0.0
