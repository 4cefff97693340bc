"""Measuring policies against the float model, every figure with its interval."""

from bitwright.evaluation.agreement import spearman_interval
from bitwright.evaluation.evaluate import evaluate, measure_many
from bitwright.evaluation.intervals import bootstrap_mean, paired_bootstrap, wilson
from bitwright.evaluation.outputs import Outputs, float_outputs
from bitwright.evaluation.regression import evaluate_regression

__all__ = [
    "Outputs",
    "bootstrap_mean",
    "evaluate",
    "evaluate_regression",
    "float_outputs",
    "measure_many",
    "paired_bootstrap",
    "spearman_interval",
    "wilson",
]
