"""The discrete problem behind a search: one variable for each free width, costs on variables and on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.cost import CostModel, CostTerms
from bitwright.errors import InvalidInput
from bitwright.search.constraints import Constraints, Width
from bitwright.values import Policy, SensitivityTable, Sites
from bitwright.values.linked import linked

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Problem:
    """Variables with levels, and M costs that are sums over variables and over pairs of variables.

    A variable is a site, or a group of sites that must agree; its levels are widths.

    Attributes:
        names: the sites of each variable.
        levels: the widths of each variable, ascending, float last.
        metrics: names of the M costs.
        constant: (M,) costs that no choice changes.
        linear: for each variable (levels, M) costs.
        pairs: (u, v) with u < v -> (levels of u, levels of v, M) costs.
        allowed: (u, v) with u < v -> (levels of u, levels of v), which combinations may be chosen.
        preference: for each variable (levels,) whole numbers that break ties, smaller for more bits.
    """

    names: tuple[tuple[str, ...], ...]
    levels: tuple[tuple[Width, ...], ...]
    metrics: tuple[str, ...]
    constant: Floats
    linear: tuple[Floats, ...]
    pairs: Mapping[tuple[int, int], Floats]
    allowed: Mapping[tuple[int, int], Mask]
    preference: tuple[Integers, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Pairs of free variables that interact, ascending."""
        free = [len(levels) > 1 for levels in self.levels]
        return sorted(e for e in {*self.pairs, *self.allowed} if free[e[0]] and free[e[1]])

    def components(self) -> list[tuple[int, ...]]:
        """Sets of variables that no pair connects, in order."""
        return linked(self.edges, range(len(self.levels)))

    def restricted(self, variable: int, level: int) -> Problem:
        """The same problem with one variable fixed; its pairs become costs of single variables."""
        keep = slice(level, level + 1)

        def cut(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(a[keep] if v == variable else a for v, a in enumerate(values))

        chosen = np.zeros(len(self.levels[variable]), dtype=bool)
        chosen[level] = True
        pairs, allowed = dict(self.pairs), dict(self.allowed)
        _keep(pairs, variable, chosen)
        _keep(allowed, variable, chosen)
        fixed = replace(
            self,
            levels=cut(self.levels),
            linear=cut(self.linear),
            preference=cut(self.preference),
            pairs=pairs,
            allowed=allowed,
        )
        return fixed.folded()

    def folded(self) -> Problem:
        """Move pairs that have a variable with a single level into the costs of the other variable.

        Raises:
            InvalidInput: no combination of widths is allowed for some pair.
        """
        linear = list(self.linear)
        levels, preference = list(self.levels), list(self.preference)
        pairs, allowed = dict(self.pairs), dict(self.allowed)
        again = True
        while again:
            again = False
            for edge in sorted({*pairs, *allowed}):
                if min(len(levels[edge[0]]), len(levels[edge[1]])) > 1:
                    continue
                u, v = edge
                cost = pairs.pop(edge, None)
                mask = allowed.pop(edge, None)
                single, other, axis = (u, v, 0) if len(levels[u]) == 1 else (v, u, 1)
                if cost is not None:
                    linear[other] = linear[other] + cost.take(0, axis=axis)
                if mask is None or mask.all():
                    continue
                keep: Mask = np.asarray(mask.take(0, axis=axis), dtype=bool)
                if not keep.any():
                    raise InvalidInput(
                        f"no allowed widths are left for site '{self.names[other][0]}' beside "
                        f"'{self.names[single][0]}' at {levels[single][0] or 'float'} bits; relax the constraints"
                    )
                levels[other] = tuple(b for b, k in zip(levels[other], keep, strict=True) if k)
                linear[other], preference[other] = linear[other][keep], preference[other][keep]
                _keep(pairs, other, keep)
                _keep(allowed, other, keep)
                again = True
        return replace(
            self,
            levels=tuple(levels),
            linear=tuple(linear),
            preference=tuple(preference),
            pairs=pairs,
            allowed=allowed,
        )

    def policy(self, widths: Sequence[Width], sites: Sites, name: str = "") -> Policy:
        """The policy of a choice of one width for each variable, in the order of the sites."""
        bits = {site: width for group, width in zip(self.names, widths, strict=True) for site in group}
        return Policy({n: bits[n] for n in sites.names if bits[n] is not None}, sites.graph_hash, name)  # type: ignore[misc]

    def harms(self, table: SensitivityTable) -> tuple[Floats, ...]:
        """For each variable the (levels,) harm of its sites together; 0 in float."""
        rows = {name: i for i, name in enumerate(table.sites)}
        columns = {bits: i for i, bits in enumerate(table.bits)}
        found = []
        for group, levels in zip(self.names, self.levels, strict=True):
            harm = np.zeros(len(levels))
            for i, bits in enumerate(levels):
                if bits is not None:
                    harm[i] = sum(table.harm[rows[name], columns[bits]] for name in group)
            found.append(harm)
        return tuple(found)


def build_problem(
    sites: Sites,
    table: SensitivityTable,
    metrics: Sequence[CostModel],
    constraints: Constraints,
) -> Problem:
    """Put sites, costs and constraints together."""
    constraints.check(sites)
    widths = constraints.widths(sites, table.bits, table.sites)
    for allowed in widths.values():
        for bits in allowed:
            if bits is not None:
                table.column(bits)
    groups = constraints.groups(sites)
    grouped = {name for group in groups for name in group}
    order = {name: i for i, name in enumerate(sites.names)}
    names = sorted([*groups, *((n,) for n in sites.names if n not in grouped)], key=lambda g: order[g[0]])
    levels: list[tuple[Width, ...]] = []
    for group in names:
        common = [b for b in widths[group[0]] if all(b in widths[name] for name in group)]
        if not common:
            raise InvalidInput(f"the sites {', '.join(group)} must agree, but have no width in common")
        levels.append(tuple(common))
    index = {name: v for v, group in enumerate(names) for name in group}
    needed = tuple(dict.fromkeys(b for ls in levels for b in ls))
    builder = _Builder(index, levels, len(metrics))
    for j, metric in enumerate(metrics):
        builder.add_cost(j, metric.terms(sites, needed))
    for op in sites.operations:
        allowed_pairs = constraints.pairs_for(op.name, op.kind)
        if allowed_pairs is not None and op.left is not None and op.right is not None:
            builder.restrict(op.right, op.left, lambda w, a, ok=allowed_pairs: w is None or a is None or (w, a) in ok)
    return builder.problem(tuple(names), tuple(m.name for m in metrics)).folded()


def _keep(table: dict[tuple[int, int], Any], variable: int, levels: Mask) -> None:
    """Leave only some levels of a variable in a table of pairs."""
    for (u, v), values in list(table.items()):
        if variable in (u, v):
            table[u, v] = values[levels] if u == variable else values[:, levels]


class _Builder:
    """Gathers cost terms and restrictions by variable."""

    def __init__(self, index: Mapping[str, int], levels: list[tuple[Width, ...]], metrics: int) -> None:
        self.index, self.levels = index, levels
        self.constant = np.zeros(metrics)
        self.linear = [np.zeros((len(ls), metrics)) for ls in levels]
        self.possible = [np.ones(len(ls), dtype=bool) for ls in levels]
        self.pairs: dict[tuple[int, int], Floats] = {}
        self.allowed: dict[tuple[int, int], Mask] = {}

    def add_cost(self, j: int, terms: CostTerms) -> None:
        self.constant[j] += terms.constant
        for site, values in terms.linear.items():
            v = self.index[site]
            for i, bits in enumerate(self.levels[v]):
                if bits in values:
                    self.linear[v][i, j] += values[bits]
                else:
                    self.possible[v][i] = False
        for term in terms.pairs:
            self.restrict(term.left, term.right, lambda a, b, known=term.values: (a, b) in known)
            u, v = self.index[term.left], self.index[term.right]
            if u == v:
                self.linear[u][:, j] += [term.values.get((b, b), 0.0) for b in self.levels[u]]
                continue
            values_uv = np.array([[term.values.get((a, b), 0.0) for b in self.levels[v]] for a in self.levels[u]])
            edge = (min(u, v), max(u, v))
            shape = (len(self.levels[edge[0]]), len(self.levels[edge[1]]), len(self.constant))
            self.pairs.setdefault(edge, np.zeros(shape))[:, :, j] += values_uv if u < v else values_uv.T

    def restrict(self, left: str, right: str, ok: object) -> None:
        u, v = self.index[left], self.index[right]
        assert callable(ok)
        if u == v:
            self.possible[u] &= np.array([ok(b, b) for b in self.levels[u]])
            return
        mask = np.array([[ok(a, b) for b in self.levels[v]] for a in self.levels[u]], dtype=bool)
        if mask.all():
            return
        edge = (min(u, v), max(u, v))
        mask = mask if u < v else mask.T
        self.allowed[edge] = self.allowed[edge] & mask if edge in self.allowed else mask

    def problem(self, names: tuple[tuple[str, ...], ...], metrics: tuple[str, ...]) -> Problem:
        for v, possible in enumerate(self.possible):
            if not possible.any():
                raise InvalidInput(f"no allowed width is left for site '{names[v][0]}'; relax the constraints")
            if not possible.all():
                _keep(self.pairs, v, possible)
                _keep(self.allowed, v, possible)
        levels = tuple(
            tuple(b for b, p in zip(ls, possible, strict=True) if p)
            for ls, possible in zip(self.levels, self.possible, strict=True)
        )
        linear = tuple(a[possible] for a, possible in zip(self.linear, self.possible, strict=True))
        preference = tuple(
            np.array([k * (k + 1) // 2 for k in reversed(range(len(ls)))], dtype=np.int64) * len(group)
            for ls, group in zip(levels, names, strict=True)
        )
        return Problem(names, levels, metrics, self.constant, linear, self.pairs, self.allowed, preference)
