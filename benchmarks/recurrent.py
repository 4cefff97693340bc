"""LSTM and GRU text classifiers of 64 steps through the main job: sites, accuracy, the file, parity and latency.

    BITWRIGHT_DATA=DIR python benchmarks/recurrent.py --runs-dir DIR [--only lstm] [--output FILE]

Both read sentences of film reviews (SST-2), 64 words each, fewer filled in front: a table of 64 numbers a word, a
recurrent layer of 128 states in each of two layers, a linear layer on the last state. They are trained here, in a
minute each.

For each: sites; accuracy in float, at W8A8 and with the policy that search chose for the bit operations of W4A8, on
test sentences that took no part in any choice; for these policies the file's bytes as a share of float's, the time in
ONNX Runtime as a share of float's (one thread, batch 1 and 32), and parity with the simulation, the runtime's graph
optimisations off and on; seconds of capture, of an export, and of the whole job.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

from _environment import output_argument, write  # noqa: E402
from _text import Vocabulary  # noqa: E402
from bitwright.data import as_data  # noqa: E402
from bitwright.flow import run  # noqa: E402
from bitwright.graph import Graph, calibrate, capture  # noqa: E402
from bitwright.runtimes import export, latency, parity  # noqa: E402
from bitwright.settings import Settings  # noqa: E402
from bitwright.tasks import Classification  # noqa: E402
from bitwright.values import FLOAT, Policy  # noqa: E402

STEPS, WORDS = 64, 4000
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Classifier(nn.Module):
    """(N, 64) numbers of words -> (N, 2) logits."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 64, states: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.words, self.dropout = nn.Embedding(WORDS, width), nn.Dropout(0.5)
        self.layers = kind(width, states, layers, batch_first=True, dropout=0.3)  # type: ignore[call-arg]
        self.head = nn.Linear(states, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class scores of the sentences."""
        states, _ = self.layers(self.dropout(self.words(tokens)))
        logits: Tensor = self.head(self.dropout(states[:, -1]))
        return logits


def labelled(path: Path, header: bool = False) -> tuple[list[str], Tensor]:
    """Sentences and their classes."""
    read = path.read_text(encoding="utf-8").splitlines()[int(header) :]
    lines = [line.rpartition("\t") for line in read if "\t" in line]
    return [text for text, _, _ in lines], torch.tensor([int(label) for _, _, label in lines])


def numbered(vocabulary: Vocabulary, texts: list[str]) -> Tensor:
    """(N, 64) numbers of words; 0 fills short sentences in front."""
    rows = torch.zeros(len(texts), STEPS, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        numbers = [vocabulary.numbers.get(word, 1) for word in vocabulary.split(text)][-STEPS:]
        row[STEPS - len(numbers) :] = torch.tensor(numbers)
    return rows


def trained(kind: type[nn.RNNBase], tokens: Tensor, labels: Tensor, epochs: int = 4) -> nn.Module:
    """A classifier after a few passes over the sentences."""
    torch.manual_seed(0)
    model = Classifier(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(64):
            loss = functional.cross_entropy(model(tokens[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def file_of(graph: Graph, policy: Policy, data: list[Any], folder: Path) -> dict[str, Any]:
    """Bytes, seconds of the export, parity and latency of a policy's file."""
    plain = export(graph, folder / "plain.onnx", policy=FLOAT)
    started = time.perf_counter()
    result = export(graph, folder / "quantized.onnx", policy=policy)
    seconds = time.perf_counter() - started
    times = latency(result.path, plain.path, inputs=[data[0][0][:1]])
    return {
        "bytes": result.bytes,
        "of_float_bytes": result.bytes / plain.bytes,
        "export_seconds": round(seconds, 2),
        "of_float_time": {f"batch {entry.batch}": entry.ratio for entry in times},
        "parity": parity(graph, result.path, data, task=Classification()).to_dict(),
    }


def measure(kind: str, folder: Path) -> dict[str, Any]:
    """Everything about one network."""
    source = Path(os.environ["BITWRIGHT_DATA"]) / "sst2"
    texts, labels = labelled(source / "train.tsv")
    vocabulary = Vocabulary(texts, WORDS)
    tokens = numbered(vocabulary, texts)
    test_texts, test_labels = labelled(source / "test.tsv")
    test = TensorDataset(numbered(vocabulary, test_texts), test_labels)
    started = time.perf_counter()
    model = trained(KINDS[kind], tokens, labels)
    finished = time.perf_counter()
    settings = Settings(task=Classification(), budget=("bops=W4A8",), quantizer="edge", bits=(3, 4, 5, 6, 8))
    report = run(model, as_data((TensorDataset(tokens, labels), test)), folder, settings)
    done = time.perf_counter()
    graph = capture(model, tokens[:2])
    captured = time.perf_counter()
    calibrate(graph, [(tokens[:512], None)])
    batches = list(zip(test.tensors[0].split(128), test_labels.split(128), strict=True))
    assert report.chosen is not None
    policies = {"W8A8": Policy.uniform(graph.sites, 8, 8), "searched": report.chosen.policy}
    return {
        "sites": len(graph.sites),
        "coverage": list(graph.coverage.sentences()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "measured": {
            m.policy.name: {
                name: {
                    part: [value.value, value.low, value.high]
                    for part, value in (("value", figure.value), ("float", figure.reference), ("change", figure.change))
                    if value is not None
                }
                for name, figure in m.verdict.figures.items()
            }
            for m in report.measured
            if m.verdict is not None
        },
        "chosen": report.chosen.policy.name,
        "files": {name: file_of(graph, policy, batches, folder) for name, policy in policies.items()},
        "seconds": {
            "training": round(finished - started),
            "capture": round(captured - done, 2),
            "job": round(done - finished, 1),
            "job_parts": report.timings,
        },
    }


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--runs-dir", metavar="DIR", required=True, type=Path, help="where the main job writes")
    parser.add_argument("--only", default=",".join(KINDS), help="networks, with a comma between (default: both)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for kind in arguments.only.split(","):
        found[kind] = measure(kind, arguments.runs_dir / kind)
        print(f"# {kind}: done", flush=True)
    write("recurrent", found, arguments.output)


if __name__ == "__main__":
    main()
