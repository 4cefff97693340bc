"""Training: one loop, what it learns, and what it brings down."""

from bitwright.train.adversarial import adversarial
from bitwright.train.finetune import finetune
from bitwright.train.mixup import mixup
from bitwright.train.qat import qat
from bitwright.train.standard import standard
from bitwright.train.strategy import STRATEGIES, Lesson, Strategy
from bitwright.values.trained import Epoch, Trained

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
