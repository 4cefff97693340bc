"""``bitwright gmpq``: a policy searched by gradients, on the job's data or on a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, Augment, takes_job

if TYPE_CHECKING:
    from rich.console import Console

    from bitwright.cli.job import Job
    from bitwright.flow.searching import Search
    from bitwright.values import Sites
    from bitwright.values.searched import Facts

Proxy = Annotated[
    str,
    typer.Option(
        "--proxy",
        metavar="DATA",
        help="Search on this data instead: its inputs must fit, its classes get a new last layer.",
    ),
]
Method = Annotated[
    str,
    typer.Option("--method", metavar="NAME", help="gmpq, r-gmpq, or loss, which leaves attribution out."),
]
Widths = Annotated[str, typer.Option("--widths", metavar="LIST", help="Bit widths that every site mixes.")]
Epochs = Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Passes over the data.")]
Rate = Annotated[
    float, typer.Option("--learning-rate", metavar="STEPS", help="Of the weights, in grid steps for each step.")
]
ShareRate = Annotated[
    float, typer.Option("--share-rate", metavar="RATE", help="Learning rate of the shares of the widths.")
]
Labels = Annotated[
    bool,
    typer.Option("--labels", help="Bring down the loss against the targets, not the distance to the float network."),
]
Study = Annotated[
    bool, typer.Option("--study", help="Check what was published about such searches, by many of them; see --seeds.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", min=1, help="With --study: searches of each kind; intervals need 2.")
]


@takes_job(*BASICS, "budget", *CALIBRATION, "holdout_samples")
def gmpq(
    job: Job,
    method: Method = "r-gmpq",
    proxy: Proxy = "",
    widths: Widths = "2,3,4,6",
    epochs: Epochs = 10,
    learning_rate: Rate = 0.01,
    share_rate: ShareRate = 0.05,
    labels: Labels = False,
    augment: Augment = "",
    study: Study = False,
    seeds: Seeds = 1,
) -> None:
    """Search a policy by gradients (GMPQ): every site mixes several widths and learns their shares.

    What is brought down is the distance of outputs and attribution from the float network's, plus what the mixture is
    expected to cost above --budget (bops=W4A4 where none is given). The policy keeps the budget exactly. It can be
    searched on small data, or on other data (--proxy), and then trained for its own with bitwright qat. Writes
    policy.json, which says how it was found, gmpq.json with every figure, and the page gmpq.html. Stopped with Ctrl-C
    or killed, the same command goes on after the last epoch.

    \b
    Examples:
      bitwright gmpq --model mynet:build --data mydata:load --budget bops=W4A4
      bitwright gmpq --job bitwright.toml --proxy mydata:small --method gmpq --epochs 25
      bitwright qat --job bitwright.toml --policy bitwright-out/policy.json
      bitwright gmpq --job bitwright.toml --study --seeds 3
    """
    from rich.console import Console

    from bitwright.cli import specs
    from bitwright.cli.load import work
    from bitwright.cli.qat import augmentation
    from bitwright.cli.run import title
    from bitwright.errors import InvalidInput
    from bitwright.flow.searching import check_facts, search_policy
    from bitwright.report.render import render_searched
    from bitwright.settings import Settings
    from bitwright.store import folder as files
    from bitwright.store import write_atomically

    if len(job.budget) > 1:
        raise InvalidInput(f"gmpq searches one policy; give one --budget, got {len(job.budget)}")
    mixed, changes = Settings(bits=widths).bits, augmentation(augment)
    budget = job.budget[0] if job.budget else "bops=W4A4"
    settings: dict[str, Any] = {
        "widths": mixed,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "share_rate": share_rate,
        "labels": labels,
        "augment": changes,
    }
    with work(job) as (session, store):
        other = specs.load_data(proxy) if proxy else None
        if study:
            facts = check_facts(session, budget, other, seeds, **settings)
            with store.results("gmpq --study") as folder:
                facts.save(folder / files.FACTS)
            show_facts(Console(highlight=False), facts)
            print(f"\nFiles in {job.output}:\n  {files.FACTS:<22}every figure as data")
            return
        checkpoint = job.output / files.SEARCH_CHECKPOINT
        found = search_policy(session, budget, other, proxy or job.data, checkpoint, method=method, **settings)
        sites, policy = session.sites, found.searched.policy
        page = render_searched(found.searched, sites, {**found.uniform, policy.name: found.verdict}, title(job))
        with store.results("gmpq") as folder:
            policy.save(folder / files.POLICY)
            found.save(folder / files.SEARCHED)
            write_atomically(folder / files.SEARCHED_PAGE, page)
    show(Console(highlight=False), found, sites, job.runtime)
    print(f"\nFiles in {job.output}:")
    print(f"  {files.POLICY:<22}train it: bitwright qat --policy {job.output / files.POLICY} ...")
    print(f"  {files.SEARCHED_PAGE:<22}bits of every site, curves, attributions: open it in a browser")
    print(f"  {files.SEARCHED:<22}every figure as data")


def show(console: Console, found: Search, sites: Sites, runtime: str) -> None:
    """The epochs, and the policy's figures beside those of uniform ones."""
    from bitwright.cli.reports import figures_of
    from bitwright.cost import uniform_policy
    from bitwright.report import format as text
    from bitwright.report.terminal import plain_table

    searched, verdict = found.searched, found.verdict
    named = [verdict.figures[name].measure for name in (verdict.distance_name, verdict.primary_name)]
    samples = f"{searched.samples:,} samples in {text.duration(searched.seconds)}"
    table = plain_table("Search", f"{samples}; the last columns: the policy so far on held-out samples, untrained.")
    for heading in ("Epoch", "Loss", "Attribution", "Of budget", "Bits", "Decided"):
        table.add_column(heading, justify="right", no_wrap=True)
    for measure in named:
        table.add_column(text.heading(measure), justify="right")
    for number, row in enumerate(searched.rounds, start=1):
        held = zip(named, (row.distance, row.primary), strict=True)
        table.add_row(
            str(number),
            text.significant(row.loss),
            "-" if row.attribution is None else text.significant(row.attribution),
            text.percent(row.cost),
            f"W{row.weights:.2f} A{row.activations:.2f}",
            text.percent(row.decided),
            *("-" if value is None else text.value(measure, value) for measure, value in held),
        )
    console.print(table)
    uniform = [(uniform_policy(name, sites), each) for name, each in found.uniform.items()]
    rows = [(policy, each) for policy, each in uniform if policy is not None]
    console.print(figures_of([*rows, (searched.policy, verdict)], sites, runtime))
    for note in searched.notes:
        print(note)


def show_facts(console: Console, facts: Facts) -> None:
    """What was published beside what was measured."""
    from bitwright.report import format as text
    from bitwright.report.terminal import plain_table

    said = (
        f"{facts.budget}, searches of {facts.epochs} epochs on {facts.samples:,} samples, seeds: {facts.seeds}. "
        "A figure above 0 speaks for the fact; in brackets, 95% intervals."
    )
    table = plain_table("Published facts", said)
    for heading in ("Published", "Figure", "Verdict", "What it is"):
        table.add_column(heading, overflow="fold")
    for found in facts.findings:
        shown = "-" if found.figure is None else text.significant(found.figure)
        if found.low is not None and found.high is not None:
            shown += f" [{text.significant(found.low)}, {text.significant(found.high)}]"
        claim = f"{found.claim} ({found.published})" if found.published else found.claim
        table.add_row(claim, shown, found.verdict, found.note)
    console.print(table)
