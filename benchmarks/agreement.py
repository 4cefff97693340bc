"""Predicted harm against measured accuracy on random policies: Spearman's rank correlation with bootstrap intervals.

    BITWRIGHT_DATA=... BITWRIGHT_WEIGHTS=... python benchmarks/agreement.py [--policies 100] [--output FILE]

The FIT paper's protocol, after post-training quantization: a CIFAR ResNet, each site of each policy drawn from
{3, 4, 6, 8} bits; ranges and scores from 512 training images, accuracy and loss from the test images.
"""

from __future__ import annotations

import os
import random
from typing import Any

import torch

import bitwright as bw
from _environment import output_argument, write
from bitwright.data import load_data
from bitwright.sensitivity import sensitivities
from bitwright.sensitivity.agreement import spearman_interval
from bitwright.tasks import evaluate, reference
from bitwright.zoo import resnet20_cifar10, resnet56_cifar10

MODELS = {"resnet20": resnet20_cifar10, "resnet56": resnet56_cifar10}


def main() -> None:
    """Measure the policies, then compare every score with what was measured."""
    parser = output_argument(__doc__)
    parser.add_argument("--model", default="resnet20", choices=sorted(MODELS))
    parser.add_argument("--ranges", default="mse")
    parser.add_argument("--quantizer", default="edge")
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load_data(f"cifar10:{os.environ['BITWRIGHT_DATA']}/cifar10")
    calibration, test = data.calibration.batches(64, limit=512), data.evaluation.batches(128)
    model = MODELS[arguments.model]()
    graph = bw.capture(model, next(iter(calibration))[0][:2], quantizer=arguments.quantizer)
    bw.calibrate(graph, calibration, ranges=arguments.ranges)
    draw = random.Random(arguments.seed)
    policies = [
        bw.Policy({site.name: draw.choice((3, 4, 6, 8)) for site in graph.sites}) for _ in range(arguments.policies)
    ]
    with torch.no_grad():
        floats = reference(graph, test)
        verdicts = [evaluate(graph, policy, test, reference=floats) for policy in policies]
    measured = {
        "accuracy": [verdict.accuracy.value for verdict in verdicts],
        "loss": [-verdict.loss.value for verdict in verdicts],
        "kl": [-verdict.kl.value for verdict in verdicts],
    }
    figures: dict[str, Any] = {
        "model": arguments.model,
        "ranges": arguments.ranges,
        "quantizer": arguments.quantizer,
        "policies": len(policies),
        "accuracy_range": [min(measured["accuracy"]), max(measured["accuracy"])],
        "float_accuracy": verdicts[0].float_accuracy.value,
        "spearman": {},
    }
    kinds = {site.name: site.kind for site in graph.sites}
    for noise in ("projected", "measured", "uniform"):
        for table in sensitivities(graph, calibration, ("fit", "margin-fit"), (3, 4, 6, 8), noise=noise):
            parts = {"": None, " weights only": "weight", " activations only": "activation"}
            for label, kind in parts.items():
                if kind is not None and table.method != "fit":
                    continue
                kept = [bw.Policy({s: b for s, b in p.bits.items() if kind in (None, kinds[s])}) for p in policies]
                predicted = [-table.predict(policy) for policy in kept]
                figures["spearman"][f"{table.method} {noise}{label}"] = {
                    target: f"{spearman_interval(predicted, values):.3f}" for target, values in measured.items()
                }
    table = sensitivities(graph, calibration, ("noise",), (3, 4, 6, 8))[0]
    scores = {
        "total noise": [-table.predict(policy) for policy in policies],
        "mean bits": [sum(policy.bits.values()) / len(policy) for policy in policies],
    }
    for label, predicted in scores.items():
        figures["spearman"][label] = {
            target: f"{spearman_interval(predicted, values):.3f}" for target, values in measured.items()
        }
    write("agreement", figures, arguments.output)


if __name__ == "__main__":
    main()
