"""Training: one loop, what it learns, and what it brings down."""

from bitwright.train.adversarial import adversarial
from bitwright.train.finetune import finetune
from bitwright.train.loop import Epoch
from bitwright.train.mixup import mixup
from bitwright.train.qat import Trained, qat
from bitwright.train.standard import standard
from bitwright.train.strategy import STRATEGIES, Lesson, Strategy

__all__ = [
    "STRATEGIES",
    "Epoch",
    "Lesson",
    "Strategy",
    "Trained",
    "adversarial",
    "finetune",
    "mixup",
    "qat",
    "standard",
]
