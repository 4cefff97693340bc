"""What capture and scores of an encoder of BERT-base's size cost: float passes and peak memory, one thread.

    python benchmarks/large_encoder.py [--layers 12] [--width 768] [--tokens 128] [--samples 64] [--ranges mse]
        [--output FILE]

12 layers of width 768 over 30,522 words, 128 tokens, two classes; weights and texts are random, since the arithmetic
costs the same. "ranges" is the choice of every weight's steps at every width, which the first scores otherwise make.
Costs are processor time, in units of one float pass over the same samples in the same run (the mean of
one before and one behind). Memory is the peak of the whole process up to the end of each step, PyTorch and the model
included.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from _networks import Encoder  # noqa: E402
from bitwright.sensitivity import sensitivities  # noqa: E402
from bitwright.settings import DEFAULTS  # noqa: E402

WORDS, BATCH = 30_522, 16


def main() -> None:
    """Run the steps in their order, each once."""
    parser = output_argument(__doc__)
    for name, default in (("layers", 12), ("width", 768), ("heads", 12), ("tokens", 128), ("samples", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ranges", default="mse")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Encoder(
        WORDS, arguments.width, arguments.layers, arguments.tokens, arguments.heads, 4 * arguments.width
    ).eval()
    tokens = torch.randint(0, WORDS, (arguments.samples, arguments.tokens))
    batches = [(part, torch.randint(0, 2, (len(part),))) for part in tokens.split(BATCH)]
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        seconds[name] = time.process_time() - start
        peaks[name] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        print(f"# {name}: {seconds[name]:.1f} s, {peaks[name]} GiB", flush=True)
        return result

    def forward() -> None:
        with torch.no_grad():
            for inputs, _ in batches:
                model(inputs)

    step("float pass", forward)
    graph = step("capture", lambda: bw.capture(model, batches[0][0][:2]))
    step("calibrate", lambda: bw.calibrate(graph, batches, ranges=arguments.ranges))
    step("ranges", lambda: [q.grid(b) for q in graph.quantizers.values() for b in DEFAULTS.bits])
    tables = step("fit and margin-fit", lambda: sensitivities(graph, batches, ("fit", "margin-fit")))
    step("float pass again", forward)
    unit = (seconds.pop("float pass") + seconds.pop("float pass again")) / 2
    figures = {
        **{name: getattr(arguments, name) for name in ("layers", "width", "tokens", "samples", "ranges")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "sites": len(graph.sites),
        "widths": len(tables[0].bits),
        "float_pass_seconds": round(unit, 1),
        "float_passes": {name: round(value / unit, 2) for name, value in seconds.items()},
        "capture_and_scores_float_passes": round((seconds["capture"] + seconds["fit and margin-fit"]) / unit, 2),
        "peak_gib": peaks,
        "not_trusted": {table.method: len(table.doubts) for table in tables},
    }
    write("large_encoder", figures, arguments.output)


if __name__ == "__main__":
    main()
