"""Published facts about GMPQ and R-GMPQ, each a small function that measures one on a network and its data.

A fact is judged by a figure that is above 0 where the fact holds, with a 95 % interval: over seeds for what needs
searches, by the bootstrap over policies or samples for the rest. Where the interval holds 0, or where there is none
(one seed), the fact is undecided. Policies are compared by their distance to float on held-out data, untrained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.cost import costs_for
from bitwright.gmpq.attribution import Explainer, entropy
from bitwright.gmpq.imitation import METHODS, Imitation
from bitwright.graph.additions import additions_of
from bitwright.graph.batches import iterate
from bitwright.graph.graph import Graph
from bitwright.tasks.base import Task
from bitwright.values import Policy
from bitwright.values.searched import Finding, Searched

POLICIES = 60
"""Random policies whose attributions are looked at."""
SHAPES = ("linear", "concave", "convex")
TOPS = (0.1, 0.25, 0.5, 0.75, 1.0)
SIZES = (0.2, 0.4, 0.6, 0.8, 1.0)
MIXED_IN = 0.1
"""Share of another sample that is mixed into each: how far data is moved for the gap between two policies."""
DRAWS = 2000


@dataclass
class Material:
    """What facts are measured with.

    Attributes:
        graph: calibrated.
        task: what its outputs mean.
        batches: of held-out data, with targets.
        widths: that searches mix.
        seeds: of the searches.
        search: (method, share of the data, seed) -> what was found, in as many steps whatever the share; asked for the
            same again it does not search again.
    """

    graph: Graph
    task: Task
    batches: Any
    widths: tuple[int, ...]
    seeds: Sequence[int]
    search: Callable[[Imitation, float, int], Searched]

    def distances(self, method: Imitation, share: float = 1.0) -> list[float]:
        """Distance to float of the policy that each seed's search found."""
        return [float(self.search(method, share, seed).rounds[-1].distance or 0.0) for seed in self.seeds]

    def policies(self) -> list[Policy]:
        """Those of the plain methods and all seeds."""
        return [self.search(METHODS[name], 1.0, seed).policy for name in ("gmpq", "r-gmpq") for seed in self.seeds]


@dataclass(frozen=True)
class Measured:
    """A figure that is above 0 where a fact holds.

    Attributes:
        figure: the figure.
        interval: its 95 % interval, or None.
        note: what it is.
    """

    figure: float
    interval: tuple[float, float] | None
    note: str

    @property
    def verdict(self) -> str:
        """In words."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "undecided"
        return "holds" if self.interval[0] > 0 else "does not hold"


@dataclass(frozen=True)
class Fact:
    """A published fact.

    Attributes:
        name: a word for it.
        claim: what was published.
        published: the figure, where there is one.
        measure: measures it; None where that is not built.
        reason: why not.
    """

    name: str
    claim: str
    published: str = ""
    measure: Callable[[Material], Measured] | None = None
    reason: str = ""

    def found(self, material: Material) -> Finding:
        """The fact, measured or not."""
        if self.measure is None:
            return Finding(self.name, self.claim, self.published, None, None, None, "not measured", self.reason)
        found = self.measure(material)
        low, high = found.interval or (None, None)
        return Finding(self.name, self.claim, self.published, found.figure, low, high, found.verdict, found.note)


def over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    reach = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - reach, mean(values) + reach


def correlated(one: Any, other: Any, note: str) -> Measured:
    """Pearson's correlation of two columns, with a bootstrap interval over their rows."""
    left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)

    def correlation(rows: Any) -> float:
        return float(np.corrcoef(left[rows], right[rows]).flat[1])

    draws = np.random.default_rng(0).integers(len(left), size=(DRAWS, len(left)))
    with np.errstate(invalid="ignore", divide="ignore"):  # of a draw that holds one row only
        low, high = np.nanpercentile([correlation(draw) for draw in draws], [2.5, 97.5]).tolist()
    return Measured(correlation(slice(None)), (low, high), note)


def compared(better: Sequence[float], worse: Sequence[float], note: str) -> Measured:
    """How much smaller the first distances are, seed by seed, as a share of the second ones."""
    gains = [1 - one / other for one, other in zip(better, worse, strict=True)]
    return Measured(mean(gains), over_seeds(gains), note)


def entropy_rises(material: Material) -> Measured:
    """Attribution entropy against BOPs, over random policies of very different size."""
    graph, task, model = material.graph, material.task, costs_for()["bops"]
    explainer, random = Explainer(graph), np.random.default_rng(0)
    inputs, _ = next(iter(iterate(material.batches, graph)))
    floats = explainer.floating(inputs, lambda out: task.explained(out, out)).outputs
    bops, entropies = [], []
    for _ in range(POLICIES):
        places = random.binomial(len(material.widths) - 1, random.uniform(), len(graph.sites))
        policy = Policy({site: material.widths[i] for site, i in zip(graph.sites.names, places, strict=True)})
        with graph.applied(policy):
            seen = explainer.looked_at(inputs, lambda out: task.explained(out, floats))
        bops.append(model.of(policy, graph.sites))
        entropies.append(float(entropy(seen.map).mean()))
    return correlated(bops, entropies, f"correlation over {POLICIES} random policies, {len(inputs[0])} samples each")


def linear_is_best(material: Material) -> Measured:
    """The linear form of p against the better of the other two."""
    found = {shape: material.distances(replace(METHODS["gmpq"], shape=shape)) for shape in SHAPES}
    others = min((found["concave"], found["convex"]), key=mean)
    told = ", ".join(f"{shape} {mean(values):.4g}" for shape, values in found.items())
    return compared(found["linear"], others, f"distance saved against the better of the others; distances: {told}")


def inner_optimum(material: Material) -> Measured:
    """The best share of places between the ends against the better end."""
    found = {top: material.distances(replace(METHODS["gmpq"], top=top)) for top in TOPS}
    inner = min(TOPS[1:-1], key=lambda top: mean(found[top]))
    ends = min((found[TOPS[0]], found[TOPS[-1]]), key=mean)
    told = ", ".join(f"{top:g}: {mean(values):.4g}" for top, values in found.items())
    return compared(found[inner], ends, f"distance saved at {inner:g} against the better end; distances by top: {told}")


def attribution_helps(material: Material) -> Measured:
    """Distances along the search, with attribution against without."""
    gains, told = [], []
    for seed in material.seeds:
        courses = [
            [row.distance for row in material.search(METHODS[name], 1.0, seed).rounds] for name in ("gmpq", "loss")
        ]
        pairs = [(a, b) for a, b in zip(*courses, strict=True) if a is not None and b]
        gains.append(mean(1 - a / b for a, b in pairs))
        told.append(f"{sum(a < b for a, b in pairs)} of {len(pairs)}")
    return Measured(
        mean(gains), over_seeds(gains), f"distance saved along the search; smaller in {', '.join(told)} epochs"
    )


def small_proxies_overfit(material: Material) -> Measured:
    """The whole data against 40 % of it, in the same number of steps."""
    found = {share: material.distances(METHODS["gmpq"], share) for share in SIZES}
    told = ", ".join(f"{share:.0%} {mean(values):.4g}" for share, values in found.items())
    return compared(found[1.0], found[0.4], f"distance saved by all of the data against 40 %; distances: {told}")


def _priced(graph: Graph, kind: str) -> list[str]:
    """Sites that an operation multiplies: bits of all others cost no BOPs, and so say nothing."""
    names = {name for op in graph.sites.operations for name in (op.left, op.right)}
    return [site.name for site in graph.sites if site.kind == kind and site.name in names]


def activations_get_more(material: Material) -> Measured:
    """Bits of activation sites above those of weight sites, where bits cost BOPs."""
    gaps = []
    for policy in material.policies():
        bits = [mean(policy.bits[s] for s in _priced(material.graph, kind)) for kind in ("activation", "weight")]
        gaps.append(bits[0] - bits[1])
    return Measured(
        mean(gaps), over_seeds(gaps), f"bits, over {len(gaps)} policies; more in {sum(g > 0 for g in gaps)}"
    )


def residuals_get_more(material: Material) -> Measured:
    """Bits of the sites around additions above those of the other activations, where bits cost BOPs."""
    around = {name for one in additions_of(material.graph.module) for name in (one.left, one.right, one.result)}
    gaps = []
    for policy in material.policies():
        both: tuple[list[int], list[int]] = ([], [])
        for site in _priced(material.graph, "activation"):
            both[site not in around].append(policy.bits[site])
        if not all(both):
            return Measured(0.0, None, "the network has no additions, or nothing else")
        gaps.append(mean(both[0]) - mean(both[1]))
    return Measured(mean(gaps), over_seeds(gaps), f"bits, over {len(gaps)} policies")


def gaps_follow_gradients(material: Material) -> Measured:
    """Change of the gap between two policies' losses when the data moves: measured, and to first order."""
    graph, task = material.graph, material.task
    first = graph.sites.names[0] if graph.sites[0].kind == "activation" else ""
    widths = material.widths[-1], material.widths[len(material.widths) // 2]
    both = [Policy.uniform(graph.sites, width, width).replaced({first: None} if first else {}) for width in widths]
    predicted, measured = [], []
    for inputs, targets in iterate(material.batches, graph):
        image, rest = inputs[0], inputs[1:]
        if targets is None or len(image) < 2 or not image.is_floating_point():
            continue
        step = MIXED_IN * (image.roll(1, 0) - image)
        here, there, slopes = [], [], []
        for policy in both:
            with graph.applied(policy):
                losses, slope = _slopes(graph, task, image, rest, targets)
                moved, _ = _slopes(graph, task, image + step, rest, targets)
            here.append(losses)
            there.append(moved)
            slopes.append((slope * step).flatten(1).sum(1))
        predicted += (slopes[0] - slopes[1]).tolist()
        measured += ((there[0] - there[1]) - (here[0] - here[1])).tolist()
    if len(predicted) < 3:
        return Measured(0.0, None, "the data has no targets")
    note = f"correlation over {len(predicted)} samples, {MIXED_IN:.0%} of another sample mixed in"
    return correlated(predicted, measured, f"{note}; {widths[0]} and {widths[1]} bits")


def _slopes(graph: Graph, task: Task, image: Tensor, rest: tuple[Any, ...], targets: Any) -> tuple[Tensor, Tensor]:
    """(N,) losses, and their gradients with respect to the input."""
    image = image.detach().requires_grad_()
    losses = task.scores(graph(image, *rest), targets, len(image))
    (slope,) = torch.autograd.grad(losses.sum(), image)
    return losses.detach(), slope


FACTS: tuple[Fact, ...] = (
    Fact("entropy", "the entropy of the attribution rises with a policy's BOPs", "correlation 0.733", entropy_rises),
    Fact("shape of p", "p linear in the lack of capacity does best of three shapes", "", linear_is_best),
    Fact("top-k", "too few places carry too little, too many carry noise", "an inner optimum", inner_optimum),
    Fact("activations", "activations get more bits than weights in most policies", "", activations_get_more),
    Fact("residuals", "residual connections get more bits than regular branches", "", residuals_get_more),
    Fact(
        "gradient gap",
        "the gap of two policies' losses follows that of their input gradients",
        "",
        gaps_follow_gradients,
    ),
    Fact("attribution", "the search with attribution is ahead of the one without all along", "", attribution_helps),
    Fact("proxy size", "40 % of the proxy or less overfits the policy", "40 %", small_proxies_overfit),
    Fact(
        "rank errors",
        "hierarchical partitioning makes fewer rank errors against the attribution of five networks",
        reason="it needs five networks that were trained from different seeds",
    ),
    Fact(
        "compact networks",
        "compact networks get more bits than wide ones",
        reason="it compares two networks; search each one and compare their pages",
    ),
    Fact(
        "far proxy",
        "a proxy far from the target gives nearly uniform policies",
        reason="it compares proxies; search on each with --proxy and compare their pages",
    ),
    Fact(
        "target's own policy",
        "a policy from the proxy comes close to one that was searched on the target",
        reason="it compares proxies; search on each with --proxy and compare their pages",
    ),
)
