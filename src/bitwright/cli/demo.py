"""``bitwright demo``: the main job on an embedded example, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MODEL = "bitwright.zoo:train_digits_network"

Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for all files.")]
Budget = Annotated[str, typer.Option("--budget", metavar="LIMIT", help="e.g. bops=W4A4 or size=15%.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of everything drawn at random.")]


def demo(output: Output = Path("bitwright-demo"), budget: Budget = "bops=W4A4", seed: int = 0) -> None:
    """Run the main job on an embedded example, without a download.

    Trains a small residual network on scikit-learn's handwritten digits first. Takes less than a minute.

    \b
    Examples:
      bitwright demo
      bitwright demo --budget size=15% --output demo-size
    """
    import torch

    from bitwright.cli.job import Job
    from bitwright.cli.load import load_data
    from bitwright.cli.progress import ProgressBars
    from bitwright.cli.run import main_job
    from bitwright.zoo import train_digits_network

    # One thread is fastest for so small a network.
    job = Job(model=_MODEL, data="digits", budget=(budget,), output=output, seed=seed, threads=1)
    torch.set_num_threads(1)
    data = load_data(job)
    print("Training a small residual network on 1,297 images of handwritten digits.")
    with ProgressBars() as bars:
        model = train_digits_network(progress=lambda done, total: bars("train the network", done, total))
    main_job(job, model, data, command=f"bitwright demo --budget {budget} --output {output}")
