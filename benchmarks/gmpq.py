"""Policies searched by gradients beside scored, uniform and random ones, at the same BOPs: ResNet-20 on CIFAR-10.

The searches run on CIFAR-10's own training images and on a proxy, MNIST resized to 3x32x32 with a new last layer. Each
policy is measured as it is, and after the same short training. What was measured stands in the file of ``--output``
after each step, and is not measured again. ``--cost`` measures a step of the search beside one of QAT instead,
``--detection`` searches for a detector on a small set of other scenes.

    BITWRIGHT_DATA=... BITWRIGHT_WEIGHTS=... python benchmarks/gmpq.py --output gmpq.json
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import bitwright as bw
from _environment import output_argument, write
from _task_networks import canvases, detection
from bitwright.data import load_data
from bitwright.gmpq import WIDTHS
from bitwright.numerics.affine import fake_quantize
from bitwright.quantizers.mixture import Mixture
from bitwright.tasks import Classification, Detection
from bitwright.train import qat
from bitwright.values import SensitivityTable
from bitwright.zoo import decode, resnet20

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
BATCH = 64


def batches(inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(inputs[i : i + BATCH], targets[i : i + BATCH]) for i in range(0, len(inputs), BATCH)]


def cifar10(count: int) -> tuple[list[Any], list[Any]]:
    """Training batches, drawn at random, and all test batches."""
    data = load_data(f"cifar10:{os.environ['BITWRIGHT_DATA']}/cifar10")
    inputs, targets = data.calibration.read(0, len(data.calibration))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:count]
    return batches(inputs[order], targets[order]), list(data.evaluation.batches(BATCH))


def mnist(count: int) -> list[Any]:
    """Digits as CIFAR-10's images are: 3x32x32 and normalized alike."""
    data = np.load(f"{os.environ['BITWRIGHT_DATA']}/mnist/train.npz")
    pixels = torch.from_numpy(data["x"][:count]).float()[:, None] / 255
    images = functional.interpolate(pixels, 32, mode="bilinear").expand(-1, 3, -1, -1)
    return batches((images - MEAN) / STD, torch.from_numpy(data["y"][:count]).long())


def searched(graph: bw.Graph, data: list[Any], budget: str, method: str, options: Any, head: bool) -> Any:
    """``method`` may end with ", float imitated": the loss is then the distance to the float network's outputs."""
    name, _, imitated = method.partition(",")
    found = bw.gmpq(
        graph,
        Classification(data),
        f"bops={budget}",
        name,
        labels=not imitated,
        epochs=options.epochs,
        share_rate=options.share_rate,
        head=head,
        seed=options.seed,
    )
    shares = [max(share) for share in found.shares.values()]
    return found.policy, {"seconds": found.seconds, "decided": float(np.mean(shares)), "cost": found.rounds[-1].cost}


def scored(graph: bw.Graph, data: list[Any], budget: str, method: str, task: Any = None) -> Any:
    start = time.perf_counter()
    table = bw.sensitivity(graph, data[:8], method=method, bits=WIDTHS, task=task)
    policy = bw.search(graph, table, budgets=[f"bops={budget}"])[0].policy
    return policy, {"seconds": time.perf_counter() - start}


def drawn(graph: bw.Graph, budget: str, seed: int) -> Any:
    """A policy that fills the budget and is otherwise random: the best one for random harms that fall with the bits."""
    harm = np.sort(np.random.default_rng(seed).exponential(size=(len(graph.sites), len(WIDTHS))), axis=1)[:, ::-1]
    table = SensitivityTable("random", "", graph.sites.names, WIDTHS, harm, graph_hash=graph.graph_hash)
    return bw.search(graph, table, budgets=[f"bops={budget}"])[0].policy, {}


def figures(verdict: Any) -> dict[str, float]:
    return {"top1": verdict.primary.value.value, "agreement": verdict.agreement.value, "kl": verdict.distance.value}


def compare(options: Any) -> dict[str, Any]:
    file = Path(options.output) if options.output else None
    done: dict[str, Any] = json.loads(file.read_text())["figures"] if file is not None and file.exists() else {}
    training, test = cifar10(options.samples)
    graph = bw.capture(resnet20(weights=f"{os.environ['BITWRIGHT_WEIGHTS']}/resnet20_cifar10.safetensors"), test[0][0])
    bw.calibrate(graph, training[:8])
    for budget in options.budgets:
        for name, make in ways(graph, budget, training, mnist(options.samples), options).items():
            key = f"{budget} {name}, seed {options.seed}"
            if key in done or not fnmatch(name, options.only):
                continue
            policy, about = make()
            bits = {k: [policy.bits[s.name] for s in graph.sites if s.kind == k] for k in ("weight", "activation")}
            row = {"plain": figures(bw.evaluate(graph, policy, test, task="classification")), **about}
            row["mean bits"] = {kind: float(np.mean(values)) for kind, values in bits.items()}
            row["bits"] = dict(policy.bits)
            if options.tune:
                trained = graph.copy()
                qat(trained, training, policy, epochs=options.tune, shuffle=True, seed=options.seed)
                row["trained"] = figures(bw.evaluate(trained, policy, test, task="classification"))
            done[key] = row
            write("gmpq", done, file)
    return done


def ways(
    graph: bw.Graph, budget: str, training: list[Any], proxy: list[Any], options: Any
) -> dict[str, Callable[[], Any]]:
    """Name -> what makes a policy within the budget, and what is worth knowing of how it was made."""
    found: dict[str, Callable[[], Any]] = {
        "uniform": lambda: (bw.Policy.uniform(graph.sites, int(budget[1]), int(budget[3])), {}),
        "fit": lambda: scored(graph, training, budget, "fit"),
        "margin-fit": lambda: scored(graph, training, budget, "margin-fit"),
    }
    for i in range(options.random):
        found[f"random {i}"] = partial(drawn, graph, budget, i)
    for method in ("loss", "gmpq", "r-gmpq", "r-gmpq, float imitated"):
        found[f"{method} on cifar10"] = partial(searched, graph, training, budget, method, options, False)
        found[f"{method} on mnist"] = partial(searched, graph, proxy, budget, method, options, True)
    return found


def detect(options: Any) -> dict[str, Any]:
    """A detector: policies searched on a small set of other scenes, trained like uniform bits, and their mAP."""
    built = detection(Path(os.environ["BITWRIGHT_DATA"]), Path(options.weights_dir))
    proxy = canvases(Path(os.environ["BITWRIGHT_DATA"]), "test", 500, 7, most=2, noise=0.2).images[:384]
    training, test = (batches(*part) for part in (built.calibration, built.evaluation))
    training = training[: options.samples // BATCH]
    task = Detection(decode=decode)
    found: dict[str, Any] = {}
    for budget in options.budgets:
        graph = bw.calibrate(bw.capture(built.model, training[0][0][:2]), training[:8])
        policies = {"uniform": bw.Policy.uniform(graph.sites, int(budget[1]), int(budget[3]))}
        policies["distance"] = scored(graph, training, budget, "one-site-distance", task)[0]
        for method in ("gmpq", "r-gmpq"):
            given = task.with_data(batches(proxy, torch.full((len(proxy), 1, 5), -1.0)), ())
            settings = {"epochs": options.epochs, "share_rate": options.share_rate, "seed": options.seed}
            policies[method] = bw.gmpq(graph, given, f"bops={budget}", method, **settings).policy
        for name, policy in policies.items():
            trained, row = graph.copy(), {}
            row["plain"] = mean_precision(bw.evaluate(graph, policy, test, task=task))
            qat(trained, training, policy, task=task, epochs=options.tune, shuffle=True, seed=options.seed)
            row["trained"] = mean_precision(bw.evaluate(trained, policy, test, task=task))
            found[f"{budget} {name}"] = row
            print(budget, name, row, flush=True)
    return found


def mean_precision(verdict: Any) -> dict[str, float]:
    figure = verdict.figures["mAP"]
    return {"mAP": figure.value.value, "float": figure.reference.value, "error": verdict.distance.value}


class Kept:
    """Bytes that autograd keeps for the backward pass: of each storage once, the largest of all steps."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.most, self.times = 0, []

    def pack(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is kept."""
        storage = tensor.untyped_storage()
        self.seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step(self, done: int, of: int) -> None:
        """Note that a step has ended."""
        self.most = max(self.most, sum(self.seen.values()))
        self.seen = {}
        self.times.append(time.process_time())


def cost(options: Any) -> dict[str, Any]:
    """Processor seconds and bytes kept of a step: QAT, GMPQ, and GMPQ with the sum over widths written down plainly."""
    training, test = cifar10(9 * BATCH)
    graph = bw.capture(resnet20(weights=f"{os.environ['BITWRIGHT_WEIGHTS']}/resnet20_cifar10.safetensors"), test[0][0])
    bw.calibrate(graph, training[:4])
    own = Mixture.quantize

    def plain(self: Mixture, tensor: Tensor, bits: int) -> Tensor:
        if self.moves is not None:
            tensor = tensor + self.moves * self._step()
        return sum(a * fake_quantize(tensor, g) for a, g in zip(self.shares, self.grids, strict=True))  # type: ignore

    def search(method: str) -> Callable[[Any], Any]:
        return lambda told: bw.gmpq(graph, Classification(training), method=method, epochs=1, progress=told)

    def run(told: Any) -> Any:
        return qat(graph.copy(), training, bw.Policy.uniform(graph.sites, 4, 4), epochs=1, shuffle=True, progress=told)

    found: dict[str, Any] = {}
    ways = {"qat": run, "loss": search("loss"), "gmpq": search("gmpq"), "gmpq, plain sum": search("gmpq")}
    for name, call in ways.items():
        Mixture.quantize = plain if name.endswith("plain sum") else own  # type: ignore[method-assign]
        kept = Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            call(kept.step)
        times = [b - a for a, b in zip(kept.times, kept.times[1:], strict=False)]
        found[name] = {"seconds": median(times), "least": min(times), "bytes kept": kept.most}
    Mixture.quantize = own  # type: ignore[method-assign]
    for name, row in found.items():
        row["times qat"] = row["least"] / found["qat"]["least"]
        row["bytes qat"] = row["bytes kept"] / found["qat"]["bytes kept"]
        print(name, row)
    return found


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--cost", action="store_true", help="measure a step instead")
    parser.add_argument("--detection", action="store_true", help="a detector instead, searched on other scenes")
    parser.add_argument("--weights-dir", default=".", help="of the detector; it is trained first where there are none")
    parser.add_argument("--samples", type=int, default=2048, help="of each data set")
    parser.add_argument("--epochs", type=int, default=5, help="of a search")
    parser.add_argument("--share-rate", type=float, default=0.05)
    parser.add_argument("--tune", type=int, default=2, help="epochs of training after the search; 0: none")
    parser.add_argument("--random", type=int, default=2, help="random policies")
    parser.add_argument("--only", default="*", help="a pattern of ways, e.g. 'gmpq on *'")
    parser.add_argument("--budgets", nargs="+", default=["W4A4", "W3A3"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    what = "cost" if options.cost else "detection" if options.detection else "policies"
    run = {"cost": cost, "detection": detect, "policies": compare}[what]
    write("gmpq" if what == "policies" else f"gmpq {what}", run(options), options.output)


if __name__ == "__main__":
    main()
