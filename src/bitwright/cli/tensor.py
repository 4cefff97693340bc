"""``bitwright tensor``: what the tensors at some sites look like, and what their grids do to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.options import BASICS, CALIBRATION, AsJson, RecipeFile, policy_option, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job
    from bitwright.values import Sites

MOST_SITES = 40
"""On one page."""

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SITE...", help="Sites or patterns, e.g. conv1.weight 'layer1.*.relu1'.", show_default=False
    ),
]
PolicyFile = Annotated[str | None, policy_option("W8A8")]
Samples = Annotated[int, typer.Option("--samples", metavar="N", help="How many inputs to look at, for activations.")]


@takes_job(*BASICS, *CALIBRATION)
def tensor(
    job: Job,
    names: Names = None,
    policy: PolicyFile = None,
    recipe: RecipeFile = None,
    samples: Samples = 64,
    as_json: AsJson = False,
) -> None:
    """Look at tensors: how their values are spread, and what their grids do to them.

    For each site its distribution with the grid over it, the share that is clipped and the share that is rounded to
    zero, as a whole and by channel, token and embedding dimension, the worst ones first. Activations are those of the
    float network. With --recipe: after its repairs. Writes the page tensors.html to the output folder.

    \b
    Examples:
      bitwright tensor layer1.0.relu1 --model mynet:build --data mydata:load
      bitwright tensor 'encoder.*' --job bitwright.toml --policy W4A8
    """
    from rich.console import Console

    from bitwright.cli.load import load_target, work
    from bitwright.cli.run import title
    from bitwright.debug import tensor_view
    from bitwright.errors import InvalidInput
    from bitwright.report.render import render_tensors
    from bitwright.report.terminal_tensor import tensor_lines
    from bitwright.store import folder as files
    from bitwright.store import write_atomically

    if not names:
        raise InvalidInput(
            "name the sites, e.g. `bitwright tensor conv1.weight 'layer1.*'`; bitwright sites lists them"
        )
    with work(job) as (session, store):
        found = matching(session.sites, names)
        chosen, under = load_target(session, policy, recipe, job.output, "W8A8")
        views = []
        with session.steps.step("look at tensors", len(found)) as tell:
            for name in found:
                bits = chosen[name]
                width = 8 if bits is None else bits
                views.append(tensor_view(under.graph, name, under.batches("calibration"), width, samples=samples))
                tell(len(views))
        after = f", after the repairs of {recipe}" if recipe is not None else ""
        note = f"Weights, and activations of the float network{after}; the grids of {chosen.name or 'the policy'}."
        with store.results("tensor") as folder:
            write_atomically(folder / files.TENSORS_PAGE, render_tensors(views, f"Tensors of {title(job)}", note))
    if as_json:
        print(json.dumps([view.to_dict() for view in views], indent=1, allow_nan=False))
        return
    console = Console(highlight=False)
    for view in views:
        console.print(tensor_lines(view))
    print(f"{job.output / files.TENSORS_PAGE}: the same with drawings; open it in a browser")


def matching(sites: Sites, patterns: list[str]) -> list[str]:
    """Sites by names and patterns, each once, in the order of the network, and no more than one page holds."""
    from bitwright.errors import InvalidInput

    wanted = {site for pattern in patterns for site in sites.matching(pattern)}
    if len(wanted) > MOST_SITES:
        raise InvalidInput(
            f"{len(wanted)} sites are too many for one page, which shows at most {MOST_SITES}; narrow the pattern"
        )
    return [site for site in sites.names if site in wanted]
