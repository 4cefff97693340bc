"""What quantization-aware training brings, and what a step of it costs; one thread.

    python benchmarks/qat.py --data cifar10:DIR [--settings W4A4,W3A3,...] [--epochs N] [--seeds 0,1,2]
        [--placement NAME] [--precision bf16] [--peers torchao,brevitas] [--cost] [--output FILE]

The trained ResNet-20 (BITWRIGHT_WEIGHTS), trained on the lossless calibration images, mirrored and shifted, from where
GPTQ on 512 of them leaves it; first and last layer at 8 bits. Measured on the evaluation images, which choose nothing:
the last epoch counts. The placement "layers" quantizes weights and what convolutions and linear layers read, for these
alone, as papers on training do; torchao's "x86" the sums in between as well, and "edge", the default placement, also
outputs of the network's last layers.

With --peers, other libraries train from the same float weights, on the same batches, towards the same distance to the
float network, with SGD, since their parameters are those of the network (see `_qat_peers.py`).

With --cost: time of a step, forward, backward and update, in units of a step of the float network with its batch norms
folded, the median of several of each in turn; and the memory that tensors take at most, likewise.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import re  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from _qat_peers import PEERS, mode, train  # noqa: E402
from bitwright.data import load_data  # noqa: E402
from bitwright.tasks import reference  # noqa: E402
from bitwright.tasks.classification import TEMPERATURE  # noqa: E402
from bitwright.tasks.infer import named_task  # noqa: E402
from bitwright.train.feed import Feed, mirrored_and_shifted  # noqa: E402
from bitwright.train.qat import Student  # noqa: E402
from bitwright.train.workers import Workers  # noqa: E402
from bitwright.zoo import resnet20_cifar10  # noqa: E402

EPOCHS = {"W4A4": 18, "W3A3": 18, "W2A4": 15, "W2A2": 30}
BATCH, CALIBRATION, EDGES = 64, 512, 8
ENDS = ("x", "conv1.weight", "pool", "linear.weight")


def widths_of(setting: str) -> tuple[int, int]:
    found = re.fullmatch(r"W(\d+)A(\d+)", setting)
    if found is None:
        raise SystemExit(f"--settings must look like W4A4, got '{setting}'")
    return int(found[1]), int(found[2])


def policy_of(graph: Any, setting: str) -> Any:
    policy = bw.Policy.uniform(graph.sites, *widths_of(setting))
    return policy.replaced({name: EDGES for name in ENDS if name in graph.sites}, setting)


def shown(verdict: Any) -> dict[str, Any]:
    return {name: getattr(verdict, name).to_dict() for name in ("accuracy", "agreement", "kl")}


def divergence(outputs: torch.Tensor, wanted: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Mean KL to the wanted outputs at a temperature, times its square: what Bitwright brings down at TEMPERATURE."""
    p, q = ((each / temperature).log_softmax(1) for each in (wanted, outputs))
    return (p.exp() * (p - q)).sum(1).mean() * temperature**2


def measured(network: Any, model: torch.nn.Module, evaluation: list[Any]) -> dict[str, float]:
    """A network's accuracy, agreement with the float model, and KL to it."""
    mode(network, False)
    with torch.no_grad():
        ours, floats = (torch.cat([each(images) for images, _ in evaluation]) for each in (network, model))
    classes, right = ours.argmax(1), torch.cat([labels for _, labels in evaluation])
    return {
        "accuracy": float((classes == right).double().mean()),
        "agreement": float((classes == floats.argmax(1)).double().mean()),
        "kl": float(divergence(ours.double(), floats.double())),
    }


def peer(name: str, model: Any, setting: str, epochs: int, seed: int, batches: Any, evaluation: Any) -> dict[str, Any]:
    """What another library's training brings."""
    torch.manual_seed(seed)
    network = PEERS[name](model, *widths_of(setting), EDGES, [x for x, _ in batches[: CALIBRATION // BATCH]])
    start, seconds = measured(network, model, evaluation), time.process_time()
    feed = Feed(batches, None, seed, None, mirrored_and_shifted)

    def images(number: int) -> Any:
        return (inputs[0] for inputs, _ in feed.epoch(number))

    def loss(x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = model(x)
        return divergence(outputs, wanted, TEMPERATURE)

    train(network, images, epochs, epochs * feed.batches, loss)
    seconds = time.process_time() - seconds
    return {"peer": name, "processor_seconds": seconds, "start": start, "trained": measured(network, model, evaluation)}


def peak(step: Callable[[], None]) -> int:
    """Bytes of tensors that a step holds at most beyond what was there, by torch's own record of allocations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def cost(graph: Any, policy: Any, batch: Any, repeats: int = 9) -> dict[str, Any]:
    """A step of training in units of a float step of the same folded network."""
    inputs, targets = batch
    task = named_task("classification")
    plain = graph.copy().apply(bw.FLOAT)
    parameters = [each.requires_grad_() for each in plain.module.parameters()]
    sgd = torch.optim.SGD(parameters, 1e-4, 0.9)

    def float_step() -> None:
        sgd.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(plain(*inputs), targets).backward()
        sgd.step()

    steps = {"float": float_step}
    for name, live in (("folded", False), ("live norms", True)):
        student = Student(graph.copy().apply(policy), task, 10, 1e-4, 0.0, live, None, Workers())
        student.learner.begin([inputs])

        def step(student: Student = student) -> None:
            loss = student.losses(inputs, [(1.0, targets)]).mean()
            student.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            student.optimizer.step()

        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    peaks = {name: peak(step) for name, step in steps.items()}
    return {
        "batch": len(inputs[0]),
        "float_step_seconds": medians["float"],
        "float_peak_bytes": peaks["float"],
        "time": {name: medians[name] / medians["float"] for name in steps if name != "float"},
        "memory": {name: peaks[name] / peaks["float"] for name in steps if name != "float"},
    }


def main() -> None:
    """Each setting with each seed."""
    parser = output_argument(__doc__)
    parser.add_argument("--data", metavar="SPEC", required=True, help="e.g. cifar10:DIR")
    parser.add_argument("--settings", default=",".join(EPOCHS))
    parser.add_argument("--epochs", type=int, help="of every setting; else " + str(EPOCHS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--placement", default="layers", help="e.g. edge, x86")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--peers", default="", help="of " + ", ".join(PEERS) + "; none as a default")
    parser.add_argument("--cost", action="store_true", help="what a step costs, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, data = resnet20_cifar10(), load_data(arguments.data)
    images = 128 if arguments.cost else 4660
    batches = list(data.calibration.batches(128 if arguments.cost else BATCH, limit=images))
    calibration = batches[: CALIBRATION // BATCH]
    graph = bw.calibrate(bw.capture(model, batches[0][0][:2], quantizer=arguments.placement), calibration)
    if arguments.cost:
        (inputs, targets) = batches[0]
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        write("qat", cost(graph, policy_of(graph, "W4A4"), (inputs, targets)), arguments.output)
        return
    evaluation = list(data.evaluation.batches(128))
    floats = reference(graph, evaluation)
    rows = []
    for setting in arguments.settings.split(","):
        policy, epochs = policy_of(graph, setting), arguments.epochs or EPOCHS.get(setting, 18)
        begun = graph.copy().apply(policy)
        bw.repair(begun, "gptq", calibration, policy=policy)
        start = shown(bw.evaluate(begun, policy, evaluation, reference=floats))
        for seed in map(int, arguments.seeds.split(",")):
            trained, seconds = begun.copy(), time.process_time()
            course = bw.qat(
                trained,
                batches,
                policy,
                epochs=epochs,
                augment=mirrored_and_shifted,
                learning_rate=arguments.learning_rate,
                precision=arguments.precision,
                seed=seed,
            )
            seconds = time.process_time() - seconds
            after = shown(bw.evaluate(trained, policy, evaluation, reference=floats))
            row = {"setting": setting, "epochs": epochs, "seed": seed, "processor_seconds": seconds}
            rows.append({**row, "start": start, "trained": after, "losses": [e.loss for e in course.epochs]})
            print(setting, seed, after["accuracy"], after["agreement"], flush=True)
            for name in filter(None, arguments.peers.split(",")):
                other = peer(name, model, setting, epochs, seed, batches, evaluation)
                rows.append({"setting": setting, "epochs": epochs, "seed": seed, **other})
                print(setting, seed, name, other["trained"], flush=True)
    chosen = {name: getattr(arguments, name) for name in ("placement", "precision", "learning_rate")}
    figures = {"images": images, "float_accuracy": floats.figure.value.value, **chosen, "rows": rows}
    write("qat", figures, arguments.output)


if __name__ == "__main__":
    main()
