"""The embedded example: a small residual network trained on handwritten digits, in seconds and without a download."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.data.digits import load_digits
from bitwright.zoo.digits_net import DigitsNet, digits_net

EPOCHS = 12
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 0.01


def train_digits_network(seed: int = 0, progress: Callable[[int, int], None] | None = None) -> DigitsNet:
    """Train `DigitsNet` on the training part of ``digits`` with Adam and a one-cycle learning rate.

    Trains on one thread, which is fastest for so small a network; on one machine the same seed gives the same
    network. Torch's global random generator and number of threads are left as they were.

    Args:
        seed: of the initial weights and of the order of the samples.
        progress: called after each epoch with the number done and the number of all.

    Returns:
        The network in evaluation mode.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    training = load_digits().calibration
    inputs, targets = training.read(0, len(training))
    assert isinstance(inputs, Tensor)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            return _train(digits_net(), inputs, targets, progress)
    finally:
        torch.set_num_threads(threads)


def _train(model: DigitsNet, inputs: Tensor, targets: Tensor, progress: Callable[[int, int], None] | None) -> DigitsNet:
    optimizer = torch.optim.Adam(model.parameters())
    steps = -(-len(inputs) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(inputs)), BATCH_SIZE):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(inputs[chosen]), targets[chosen]))
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(epoch + 1, EPOCHS)
    return model.eval()
