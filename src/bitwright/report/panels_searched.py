"""A search by gradients as plain data: its curves, the bits of every site, and attributions as small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.panels import figure_rows
from bitwright.report.pictures import Curve, curves, png
from bitwright.values import Measure, Sites, Verdict
from bitwright.values.searched import Round, Searched

COLOURS = ((27, 24, 82), (33, 128, 141), (250, 222, 60))
"""Of an attribution: none, half of the largest value, the largest value."""

Pixel = tuple[int, int, int]


@dataclass(frozen=True)
class SiteShares:
    """One site.

    Attributes:
        name: of the site.
        kind: ``"weight"`` or ``"activation"``.
        bits: that it got.
        shares: (width, share in percent) of each width that was mixed.
    """

    name: str
    kind: str
    bits: str
    shares: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Pictures:
    """One sample: addresses of pictures that hold their own data; the image's is empty where the input is none."""

    image: str
    floats: str
    mixed: str


@dataclass(frozen=True)
class SearchedPanel:
    """The whole search.

    Attributes:
        sentence: what came out.
        origin: how and on what data.
        headings, figures: name of each policy, and its figures with their intervals.
        curves: over the epochs.
        sites: in the order of execution.
        maps: attributions of a few samples; none where they were not compared.
        entropies: a sentence about how spread out they are; or empty.
        notes: what to keep in mind.
    """

    sentence: str
    origin: str
    headings: tuple[str, ...]
    figures: tuple[tuple[str, tuple[str, ...]], ...]
    curves: tuple[Curve, ...]
    sites: tuple[SiteShares, ...]
    maps: tuple[Pictures, ...]
    entropies: str
    notes: tuple[str, ...]


def searched_panel(searched: Searched, sites: Sites, verdicts: Mapping[str, Verdict]) -> SearchedPanel:
    """What a page shows of a search; the last verdict is that of the policy that was found."""
    policy, last = searched.policy, searched.rounds[-1]
    verdict = list(verdicts.values())[-1]
    means = []
    for kind in ("weight", "activation"):
        widths = [policy.bits[site.name] for site in sites if site.kind == kind and site.name in policy.bits]
        means.append(f"{sum(widths) / max(len(widths), 1):.2f}")
    sentence = (
        f"Within {searched.budgets} weights get {means[0]} bits and activations {means[1]} on average: "
        f"{verdict.primary.measure.label} {text.value(verdict.primary.measure, verdict.primary.value.value)} "
        "before any repair or training."
    )
    entropies = ""
    if searched.entropies is not None:
        floats, mixed = (text.significant(value) for value in searched.entropies)
        entropies = (
            f"Attributions at {searched.stage}, each divided by its largest value. Their entropy is {floats} nats in "
            f"float and {mixed} in the mixture of widths, on average."
        )
    shares = (
        SiteShares(
            site.name,
            site.kind,
            text.bits(policy[site.name]),
            tuple((width, 100 * s) for width, s in zip(searched.widths, searched.shares[site.name], strict=True)),
        )
        for site in sites
        if site.name in searched.shares
    )
    return SearchedPanel(
        sentence,
        policy.origin,
        *figure_rows(verdicts),
        _curves(searched.rounds, verdict),
        tuple(shares),
        tuple(Pictures(_photo(s.image), _heat(s.floats), _heat(s.mixed)) for s in searched.maps),
        entropies,
        (
            *searched.notes,
            f"{len(searched.rounds)} epochs in {text.duration(searched.seconds)}; {last.decided:.0%} "
            "is the mean of the sites' largest shares.",
        ),
    )


def _curves(rounds: Sequence[Round], verdict: Verdict) -> tuple[Curve, ...]:
    plain = Measure("", "")
    distance, primary = (verdict.figures[name].measure for name in (verdict.distance_name, verdict.primary_name))
    columns: list[tuple[str, Measure, Sequence[float | None]]] = [
        ("Loss", plain, [row.loss for row in rounds]),
        ("Distance of attributions", plain, [row.attribution for row in rounds]),
        ("Expected cost, share of the budget", Measure("", "", "share"), [row.cost for row in rounds]),
        ("Expected bits of weights", plain, [row.weights for row in rounds]),
        ("Expected bits of activations", plain, [row.activations for row in rounds]),
        (f"{distance.label}, held out", distance, [row.distance for row in rounds]),
        (f"{primary.label}, held out", primary, [row.primary for row in rounds]),
    ]
    return curves(columns)


def _heat(rows: Sequence[Sequence[float]]) -> str:
    def colour(value: float) -> Pixel:
        place = min(max(value, 0.0), 1.0) * 2
        low = min(int(place), 1)
        ends = zip(COLOURS[low], COLOURS[low + 1], strict=True)
        return tuple(round(a + (b - a) * (place - low)) for a, b in ends)  # type: ignore[return-value]

    return png([[colour(value) for value in row] for row in rows])


def _photo(channels: Sequence[Sequence[Sequence[float]]]) -> str:
    if not channels:
        return ""
    planes = [channels[min(i, len(channels) - 1)] for i in range(3)]
    rows = zip(*planes, strict=True)
    return png(
        [[(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in zip(*row, strict=True)] for row in rows]
    )
