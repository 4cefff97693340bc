"""Predicted harm against measured accuracy on random policies: Spearman's rank correlation with bootstrap intervals.

    BITWRIGHT_DATA=... BITWRIGHT_WEIGHTS=... python benchmarks/agreement.py [--model NAME] [--policies 100]
        [--background] [--one-site] [--output FILE]

The FIT paper's protocol, after post-training quantization: a CIFAR ResNet, or a classifier of `_networks.py`, which is
trained for some seconds first; each site of each policy drawn from {3, 4, 6, 8} bits; ranges and scores from 512
training samples, accuracy and loss from the test samples. --background puts noise behind the digits that a network of
`_networks.py` learns; --one-site adds the sum of distances measured with each site alone quantized. Beside that, the KL
divergence of the policies that each score alone finds for the bit operations of W4A8 and W4A4, and of these uniform
policies.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bitwright as bw
from _environment import output_argument, write
from _networks import networks, trained
from bitwright.data import as_data, load_data
from bitwright.sensitivity import sensitivities
from bitwright.sensitivity.agreement import spearman_interval
from bitwright.tasks import evaluate, reference
from bitwright.zoo import resnet20_cifar10, resnet56_cifar10

MODELS = {"resnet20": resnet20_cifar10, "resnet56": resnet56_cifar10}


BUDGETS = {"bops=W4A8": (4, 8), "bops=W4A4": (4, 4)}


def loaded(name: str, background: bool = False) -> tuple[Any, Any]:
    """A trained network and its data sets."""
    data = os.environ["BITWRIGHT_DATA"]
    if name in MODELS:
        return MODELS[name](), load_data(f"cifar10:{data}/cifar10")
    torch.manual_seed(0)
    case = networks()[name][1](Path(data))
    if background:
        case.train, case.test = ((behind(x, seed), y) for seed, (x, y) in enumerate((case.train, case.test)))
    return trained(case), as_data((case.train, case.test))


def behind(images: Tensor, seed: int) -> Tensor:
    """Images with noise, fine and coarse, in place of an even background."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.rand(images.shape, generator=generator)
    coarse = torch.randn(images.shape, generator=generator)
    coarse = torch.nn.functional.avg_pool2d(coarse, 5, 1, 2).abs()
    return (images + 0.6 * fine + 0.9 * coarse).clamp(0, 1.6)


def main() -> None:
    """Measure the policies, then compare every score with what was measured."""
    parser = output_argument(__doc__)
    parser.add_argument("--model", default="resnet20", choices=sorted([*MODELS, *networks()]))
    parser.add_argument("--ranges", default="mse")
    parser.add_argument("--quantizer", default="edge")
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--background", action="store_true", help="noise behind the digits")
    parser.add_argument("--one-site", action="store_true", help="measure each site alone, too")
    arguments = parser.parse_args()
    model, data = loaded(arguments.model, arguments.background)
    calibration, test = data.calibration.batches(64, limit=512), data.evaluation.batches(128)
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
        "background": arguments.background,
        "ranges": arguments.ranges,
        "quantizer": arguments.quantizer,
        "policies": len(policies),
        "accuracy_range": [min(measured["accuracy"]), max(measured["accuracy"])],
        "float_accuracy": verdicts[0].float_accuracy.value,
        "spearman": {},
        "searched_kl": {},
    }

    def distance(policy: bw.Policy) -> float:
        return evaluate(graph, policy, test, reference=floats).kl.value

    for budget, widths in BUDGETS.items():
        figures["searched_kl"][budget] = {"uniform": distance(bw.Policy.uniform(graph.sites, *widths))}
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
            if noise == "projected":
                figures["not_trusted"] = {**figures.get("not_trusted", {}), table.method: len(table.doubts)}
                for budget, found in figures["searched_kl"].items():
                    (candidate,) = bw.search(graph, table, budgets=[budget])
                    found[table.method] = distance(candidate.policy)
    scores = {"mean bits": [float(sum(policy.bits.values()) / len(policy)) for policy in policies]}
    for method in ("noise", "one-site-distance") if arguments.one_site else ("noise",):
        table = sensitivities(graph, calibration, (method,), (3, 4, 6, 8), samples=256)[0]
        scores[f"sum of {method}"] = [-table.predict(policy) for policy in policies]
    for label, predicted in scores.items():
        figures["spearman"][label] = {
            target: f"{spearman_interval(predicted, values):.3f}" for target, values in measured.items()
        }
    write("agreement", figures, arguments.output)


if __name__ == "__main__":
    main()
