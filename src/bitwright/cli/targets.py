"""The quantized networks that a command compares: policies, recipes, exported files, and other models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bitwright.cli.job import Job
    from bitwright.session import Session
    from bitwright.values import Policy

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="A policy file, or e.g. W4A8; several are compared. [default: policy.json of the output folder]",
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="A recipe: policy, repairs and ranges together; several are compared. Nothing in the .npz file beside it "
        "is fitted again.",
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", metavar="FILE", help="An exported file, which runs in its runtime; several are compared."),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="MODEL",
        help="NAME=package.module:factory: another model on the same data, such as one that was trained otherwise, "
        "under the same --policy. Can be given several times.",
    ),
]


@dataclass(frozen=True)
class Target:
    """A quantized network.

    Attributes:
        session: of the network that it is made of, under its recipe.
        target: a policy, or an exported file.
        digest: of the file; empty for a policy.
    """

    session: Session
    target: Policy | Path
    digest: str = ""

    @property
    def policy(self) -> Policy:
        """The policy that is simulated; float in place of a file."""
        from bitwright.values.policy import FLOAT

        return FLOAT if isinstance(self.target, Path) else self.target


def targets(
    job: Job,
    session: Session,
    policies: Sequence[str] | None,
    recipes: Sequence[str] | None,
    files: Sequence[Path] | None,
    beside: Sequence[str] | None,
) -> dict[str, Target]:
    """Name -> what was asked for: of the job's model policies, recipes and files, of other models the policies."""
    from bitwright.cli import specs
    from bitwright.cli.load import load_policy, load_recipe
    from bitwright.cli.run import title
    from bitwright.errors import InvalidInput

    found: dict[str, Target] = {}

    def add(name: str, target: Target) -> None:
        taken = sum(each == name or each.rpartition(" (")[0] == name for each in found)
        found[f"{name} ({taken + 1})" if taken else name] = target

    models = {"": session}
    for spec in beside or ():
        name, equals, model = spec.partition("=")
        if not equals or not name or not model:
            raise InvalidInput(f"--beside must be NAME=package.module:factory, got '{spec}'")
        models[name] = session.of(specs.load_model(model))
    plain = bool(policies or beside) or not (recipes or files)
    for name, own in models.items():
        asked: Sequence[str | None] = policies or (None,)
        for text in asked if plain else ():
            policy = load_policy(text, job.output, own.sites)
            add(f"{name or title(job)}, {policy.name}" if beside else policy.name or str(text), Target(own, policy))
    for path in recipes or ():
        recipe = load_recipe(path)
        add(f"{recipe.policy.name}, {Path(path).name}", Target(session.under(recipe), recipe.policy))
    for file in files or ():
        add(str(file), Target(session, file, _digest(file)))
    return found


def _digest(file: Path) -> str:
    import hashlib

    from bitwright.errors import InvalidInput

    if not file.is_file():
        raise InvalidInput(f"there is no file '{file}'; export the graph first")
    return hashlib.sha256(file.read_bytes()).hexdigest()
