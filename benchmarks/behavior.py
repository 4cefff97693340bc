"""What Hu et al. (2022) found of quantized networks under shifts, measured again: does it hold here?

    python benchmarks/behavior.py --data DIR --weights DIR --output behavior.json [--networks lenet5]

1. Shifts raise disagreements. 2. Training with quantization gives the most stable networks, beside standard,
adversarial and Mixup training. 3. The margin is the best indicator. 4. Retraining with the disagreements removes few
and makes new ones. DIR holds ``mnist`` and ``cifar10``; weights are those of the CIFAR ResNets. The rest is trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bitwright as bw
from _environment import write
from bitwright.behavior.cases import cases_of
from bitwright.data import load_data
from bitwright.train.feed import mirrored_and_shifted
from bitwright.values.behavior import Behavior, Seen
from bitwright.zoo import lenet1, lenet5, nin, resnet20

Batches = list[tuple[Any, torch.Tensor]]
PUBLISHED = {"lenet1": 95.7, "lenet5": 94.6, "resnet20": 95.9, "nin": 93.3}
"""AUROC of the margin, in percent."""
NETWORKS: dict[str, tuple[str, Callable[[], nn.Module], int]] = {
    "lenet1": ("mnist", lenet1, 6),
    "lenet5": ("mnist", lenet5, 6),
    "nin": ("cifar10", lambda: nin(dropout=0.2), 40),
    "resnet20": ("cifar10", resnet20, 0),
}
"""Name -> data, network, epochs of training; 0: its weights are at hand."""
STRATEGIES = ("standard", "adversarial", "mixup", "qat")


class Study:
    """A quantized network under all shifts, and which inputs it disagrees on in each case."""

    def __init__(self, graph: bw.Graph, policy: bw.Policy, batches: Batches, severities: tuple[int, ...]) -> None:
        self.seen: dict[tuple[str, int], Seen] = {}

        def keep(name: str, severity: int, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            found = compute()
            self.seen[name, severity] = Seen.from_dict(found)
            return found

        self.found: Behavior = bw.behavior(graph, policy, batches, severities=severities, remember=keep)

    @property
    def differs(self) -> np.ndarray[Any, Any]:
        """Whether the two disagree, of all inputs in all cases but the data as they are."""
        return np.concatenate(
            [one.differs > 0 for (name, _), one in self.seen.items() if name and one.differs is not None]
        )

    def figures(self) -> dict[str, Any]:
        """Rates, accuracies and indicators."""
        shifted = self.found.shifted
        rule = self.found.guard
        return {
            "disagreements as they are": self.found.clean.rate.to_dict() if self.found.clean.rate else None,
            "disagreements under shifts": float(self.differs.mean()),
            "shifts with more disagreements": float(
                np.mean([(one.disagreements or 0) > (self.found.clean.disagreements or 0) for one in shifted])
            ),
            "accuracy under shifts, float": float(np.mean([one.float_figure for one in shifted])),
            "accuracy under shifts, quantized": float(np.mean([one.figure for one in shifted])),
            "AUROC": {one.name: one.auroc.to_dict() for one in self.found.indicators},
            "guard": None if rule is None else {"caught": rule.caught.value, "sent back": rule.sent_back.value},
            "notes": list(self.found.notes),
        }


def trained(name: str, strategy: str, training: Batches, weights: Path, seed: int) -> nn.Module:
    """The float network of a strategy; for ``"qat"`` the standard one, which is quantized and trained then."""
    torch.manual_seed(seed)
    data, make, epochs = NETWORKS[name]
    model = make()
    augment = mirrored_and_shifted if data == "cifar10" else None
    plain = "standard" if strategy == "qat" else strategy
    if not epochs:
        model = resnet20(weights=weights / "resnet20_cifar10.safetensors")
        if plain == "standard":
            return model.eval()
        epochs = 4
    model, _ = bw.finetune(
        model, training, epochs=epochs, strategy=plain, learning_rate=0.02, augment=augment, seed=seed
    )
    return model


def quantized(
    model: nn.Module, training: Batches, bits: tuple[int, int], qat_epochs: int
) -> tuple[bw.Graph, bw.Policy]:
    """The captured, calibrated network under uniform widths, trained so if asked to."""
    graph = bw.calibrate(bw.capture(model, training[0][0][:2]), training[:8])
    policy = bw.Policy.uniform(graph.sites, *bits)
    if qat_epochs:
        bw.qat(graph, training, policy, epochs=qat_epochs)
    return graph, policy


def retrained(
    model: nn.Module,
    study: Study,
    training: Batches,
    batches: Batches,
    severities: tuple[int, ...],
    bits: tuple[int, int],
) -> dict[str, Any]:
    """The float network trained further with the inputs that were disagreed on, quantized again, on the same inputs."""
    added: Batches = []
    for case in cases_of(batches, None, severities, {}, 0):
        differs, start = study.seen[case.name, case.severity].differs, 0
        assert differs is not None
        for (inputs, *_), targets in case.batches:
            chosen = torch.from_numpy(differs[start : start + len(inputs)] > 0)
            start += len(inputs)
            if case.name and chosen.any():
                added.append((inputs[chosen], targets[chosen]))
    inputs, targets = (torch.cat([pair[i] for pair in (*training, *added)]) for i in (0, 1))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    both = [(inputs[part], targets[part]) for part in order.split(64)]
    further, _ = bw.finetune(model, both, epochs=2, learning_rate=0.005)
    after = Study(*quantized(further, training, bits, 0), batches, severities)
    before = study.differs
    return {
        "before": int(before.sum()),
        "after": int(after.differs.sum()),
        "removed": int((before & ~after.differs).sum()),
        "new": int((after.differs & ~before).sum()),
        "accuracy under shifts, quantized": after.figures()["accuracy under shifts, quantized"],
    }


def main() -> None:
    """Every network, strategy and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--networks", default="lenet5,resnet20")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--policies", default="8/8,4/4", help="weights/activations")
    parser.add_argument("--severities", default="1,3,5")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    severities = tuple(int(part) for part in given.severities.split(","))
    figures: dict[str, Any] = {"samples": given.samples, "severities": severities, "published AUROC": PUBLISHED}
    for name in given.networks.split(","):
        source = load_data(f"{NETWORKS[name][0]}:{given.data / NETWORKS[name][0]}")
        training = list(source.calibration.batches(64))
        batches = list(source.evaluation.batches(128, limit=given.samples))
        for strategy in given.strategies.split(","):
            model = trained(name, strategy, training, given.weights, given.seed)
            for text in given.policies.split(","):
                weights, activations = (int(part) for part in text.split("/"))
                start = time.perf_counter()
                graph, policy = quantized(model, training, (weights, activations), 2 if strategy == "qat" else 0)
                study = Study(graph, policy, batches, severities)
                row = {**study.figures(), "seconds": time.perf_counter() - start}
                if strategy == "standard":
                    row["retraining"] = retrained(model, study, training, batches, severities, (weights, activations))
                figures[f"{name} {strategy} W{weights}A{activations}"] = row
                print(name, strategy, text, row, flush=True)
    write("behavior", figures, given.output)


if __name__ == "__main__":
    main()
