"""``bitwright demo``: the main job on an embedded example, without a download."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from bitwright.cli.options import takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job

# One thread is fastest for so small a network.
_PRESET = {
    "model": "bitwright.zoo:digits_net",
    "data": "digits",
    "budget": "bops=W4A4",
    "output": "bitwright-demo",
    "threads": 1,
}


@takes_job("budget", "output", "seed", preset=_PRESET)
def demo(job: Job) -> None:
    """Run the main job on an embedded example, without a download.

    Trains a small residual network on scikit-learn's handwritten digits first. Takes less than a minute.

    \b
    Examples:
      bitwright demo
      bitwright demo --budget size=15% --output demo-size
    """
    import torch

    from bitwright.cli.load import load_data
    from bitwright.cli.progress import ProgressBars
    from bitwright.cli.run import called, main_job
    from bitwright.store import folder as files
    from bitwright.store import write_atomically
    from bitwright.zoo import train_digits_network

    torch.set_num_threads(1)
    data = load_data(job)
    print("Training a small residual network on 1,297 images of handwritten digits.")
    with ProgressBars() as bars:
        model = train_digits_network(job.seed, lambda done, total: bars("train the network", done, total))
    weights = io.BytesIO()
    torch.save(model.state_dict(), weights)
    write_atomically(job.output / files.WEIGHTS, weights.getvalue())
    main_job(job.model_copy(update={"weights": job.output / files.WEIGHTS}), model, data, command=called())
