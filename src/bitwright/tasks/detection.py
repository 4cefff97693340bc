"""Detection: boxes with labels. COCO's mean average precision decides; pycocotools matches the boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput, MissingExtra
from bitwright.graph.outputs import flatten
from bitwright.tasks.base import TASKS, Answer, Evidence, Values, Vectors, called
from bitwright.tasks.embedding import projected
from bitwright.tasks.intervals import Array, Draws, ends
from bitwright.tasks.outputs import Named
from bitwright.values import Figure, Interval, Measure

Boxes = dict[str, npt.NDArray[Any]]
"""Of one image: ``boxes`` (D, 4) left, top, right, bottom; ``labels`` (D,); ``scores`` (D,) of detections."""

MAP = Measure("mAP", "mAP", "share")
AGREEMENT = Measure("agreement", "Boxes of float found", "share")
ERROR = Measure("error", "Relative squared error", larger=False)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections of an image that count, those with the highest scores."""
MOST_DRAWS = 200
"""Bootstrap draws at most: one draw of mAP costs as much as thousands of a mean."""


@TASKS.register
class Detection(Vectors):
    """Boxes with labels, made of the network's outputs by ``decode``, outside of the graph.

    mAP as COCO defines it: the mean over labels and over the overlaps 0.50 to 0.95 of the precision at 101 recalls. The
    agreement holds the boxes against float's: twice the number of pairs with the same label and an overlap of at least
    one half, over the number of boxes on both sides. The distance is the relative squared error of the outputs as
    the network returns them.

    Targets are (N, M, 5) numbers: left, top, right, bottom and label of each box, rows with a negative label being
    padding; or a list with ``{"boxes": (G, 4), "labels": (G,)}`` for each image.

    Args:
        decode: outputs -> for each image ``{"boxes": (D, 4), "scores": (D,), "labels": (D,)}``, overlapping ones
            suppressed. On the command line: ``--task 'detection?decode=module:function'``.
        score: detections with a lower score do not count for the agreement.
        scores: name of the output that holds the boxes' scores or their logits, for attribution; None: the first one.
        options: see :class:`~bitwright.tasks.base.Task`.
    """

    name, does, order = "detection", "boxes with labels, made of the outputs by a function of yours: mAP", 60
    measures, further = (ERROR,), (MAP, AGREEMENT)
    primary, distance, agreement = "mAP", "error", "agreement"
    harm = "squared change of the outputs, in their standard deviations"

    def __init__(
        self,
        *data: Any,
        decode: Callable[[Any], Any] | None = None,
        score: float = 0.3,
        scores: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*data, **options)
        if not callable(decode):
            raise InvalidInput(
                "the task 'detection' needs decode, a function that makes boxes of the outputs: "
                "bw.tasks.Detection(decode=...), or --task 'detection?decode=module:function'"
            )
        self.decode, self.score_of_boxes, self.explains = decode, float(score), scores

    def read(self, outputs: Named, targets: Any) -> None:
        """Nothing: values are compared as they are, boxes are made once for all figures."""

    def own(self, answer: Answer) -> Values:
        """Nothing for single samples: mAP is of all together."""
        return {}

    def details(self, answer: Answer) -> dict[str, Any]:
        """The boxes found, and those that there are."""
        found = [_checked(boxes, "decode", "scores") for boxes in called("decode", self.decode, answer.raw)]
        if len(found) != answer.count:
            raise InvalidInput(f"decode must give one entry for each of {answer.count} images, got {len(found)}")
        known = {} if answer.targets is None else {"known": truths(answer.targets)}
        return {"found": found, **known}

    def score(self, outputs: Any, targets: Any) -> Tensor:
        """(N,) projections of the outputs on random signs, each output in its standard deviations."""
        values = [value.flatten(1) for value in flatten(outputs).values() if value.is_floating_point()]
        return projected([value / value.detach().std().clamp_min(1e-12) / value.shape[1] ** 0.5 for value in values])

    def figures(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """mAP of both models and their agreement before the distance."""
        found: dict[str, Figure] = {}
        if "known" in evidence.ours:
            known = evidence.ours["known"]
            found["mAP"] = compared(evidence.ours["found"], evidence.floats["found"], known, draws)
        if evidence.pair:
            shares = agreements(evidence.ours["found"], evidence.floats["found"], self.score_of_boxes)
            found["agreement"] = draws.figure(AGREEMENT, shares)
        return {**found, **super().figures(evidence, draws)}


def truths(targets: Any) -> list[Boxes]:
    """The boxes that there are in each image.

    Raises:
        InvalidData: targets of another form.
    """
    if isinstance(targets, Tensor):
        if targets.dim() != 3 or targets.shape[2] != 5:
            raise InvalidData(
                "targets of detection must be (N, M, 5): left, top, right, bottom, label (negative: padding), got "
                f"shape {tuple(targets.shape)}"
            )
        rows = targets.detach().cpu().double().numpy()
        return [{"boxes": row[row[:, 4] >= 0, :4], "labels": row[row[:, 4] >= 0, 4].astype(np.int64)} for row in rows]
    if not isinstance(targets, (list, tuple)):
        raise InvalidData(f"targets of detection must be a tensor or a list, got {type(targets).__name__}")
    return [_checked(boxes, "targets") for boxes in targets]


def _checked(found: Any, what: str, *more: str) -> Boxes:
    names = ("boxes", "labels", *more)
    if not isinstance(found, Mapping) or any(name not in found for name in names):
        raise InvalidInput(f"{what} must hold {', '.join(names)} for each image, got {type(found).__name__}")
    arrays = {name: torch.as_tensor(found[name]).detach().cpu().double().numpy() for name in names}
    arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
    if any(len(value) != len(arrays["boxes"]) for value in arrays.values()):
        sizes = ", ".join(f"{len(value)} {name}" for name, value in arrays.items())
        raise InvalidInput(f"{what} must hold equally many boxes, labels and scores for each image, got {sizes}")
    arrays["labels"] = arrays["labels"].astype(np.int64)
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise InvalidData(f"{what} holds boxes or scores that are not finite")
    return arrays


def overlaps(one: Array, other: Array) -> Array:
    """(D, G) intersection over union of boxes (D, 4) and (G, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (one, other)]
    total = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.where(total > 0, shared / np.where(total > 0, total, 1.0), 0.0))


def agreements(ours: Any, floats: Any, score: float) -> Array:
    """(N,) share of boxes of each image that the other side has, too; 1 where neither has any."""
    shares = np.ones(len(ours))
    for i, (one, other) in enumerate(zip(ours, floats, strict=True)):
        mine, theirs = ({name: value[side["scores"] >= score] for name, value in side.items()} for side in (one, other))
        sizes = len(mine["boxes"]) + len(theirs["boxes"])
        if sizes:
            near = overlaps(mine["boxes"], theirs["boxes"])
            near[mine["labels"][:, None] != theirs["labels"][None]] = 0.0
            shares[i] = 2 * _pairs(near) / sizes
    return shares


def _pairs(near: Array) -> int:
    """How many pairs of boxes overlap by half or more, each box in one pair, largest overlaps first."""
    from scipy.optimize import linear_sum_assignment

    if not near.size:
        return 0
    rows, columns = linear_sum_assignment(-np.where(near >= 0.5, 1 + near, 0.0))
    return int((near[rows, columns] >= 0.5).sum())


class _Label:
    """The detections of one label in all images, highest scores first."""

    def __init__(self, evaluated: list[Any]) -> None:
        known = [image for image in evaluated if image is not None]
        places = [np.full(len(e["dtScores"]), i) for i, e in enumerate(evaluated) if e is not None]
        self.truths = np.array([0 if e is None else len(e["gtIds"]) for e in evaluated], dtype=np.float64)
        scores = np.concatenate([np.asarray(e["dtScores"]) for e in known]) if known else np.empty(0)
        order = np.argsort(-scores, kind="mergesort")
        self.image = np.concatenate(places)[order] if known else np.empty(0, dtype=np.int64)
        matches = [np.asarray(e["dtMatches"]).reshape(len(THRESHOLDS), -1) for e in known]
        self.right = (np.concatenate(matches, 1)[:, order] > 0) if known else np.empty((len(THRESHOLDS), 0), dtype=bool)

    def precision(self, weights: Array) -> Array:
        """(r,) average precision with (r, N) weights of the images; NaN without any box."""
        total = weights @ self.truths
        each = weights[:, None, self.image]
        hits, misses = (each * self.right).cumsum(2), (each * ~self.right).cumsum(2)
        recall = hits / np.maximum(total, 1)[:, None, None]
        exact = hits / np.maximum(hits + misses, np.spacing(1))
        envelope = np.maximum.accumulate(exact[..., ::-1], 2)[..., ::-1]
        rows = recall.shape[0] * recall.shape[1]
        if recall.shape[2] == 0:
            found = np.zeros(len(weights))
        else:
            place = np.stack([np.searchsorted(row, RECALLS) for row in recall.reshape(rows, -1)])
            padded = np.concatenate([envelope.reshape(rows, -1), np.zeros((rows, 1))], 1)
            found = np.take_along_axis(padded, place, 1).reshape(len(weights), -1).mean(1)
        return np.where(total > 0, found, np.nan)


def labels_of(found: Any, known: Any) -> list[_Label]:
    """Detections matched with the boxes that there are, label by label, by pycocotools."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtra("pycocotools", "detection", "to measure detectors") from None
    names = sorted({int(label) for image in known for label in image["labels"]})
    truth, detected = COCO(), COCO()
    for side, images in ((truth, known), (detected, found)):
        rows: list[dict[str, Any]] = []
        for i, image in enumerate(images):
            scores = image.get("scores", np.ones(len(image["boxes"])))
            for box, label, score in zip(image["boxes"], image["labels"], scores, strict=True):
                wide, high = max(0.0, box[2] - box[0]), max(0.0, box[3] - box[1])
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": i,
                        "category_id": int(label),
                        "bbox": [float(box[0]), float(box[1]), float(wide), float(high)],
                        "area": float(wide * high),
                        "iscrowd": 0,
                        "score": float(score),
                    }
                )
        side.dataset = {
            "images": [{"id": i} for i in range(len(images))],
            "categories": [{"id": name} for name in names],
            "annotations": rows,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
    measured = COCOeval(truth, detected, "bbox")
    measured.params.catIds, measured.params.imgIds = names, list(range(len(known)))
    measured.params.iouThrs, measured.params.maxDets = THRESHOLDS, [MOST]
    measured.params.areaRng, measured.params.areaRngLbl = [[0, 1e10]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        measured.evaluate()
    count = len(known)
    return [_Label(measured.evalImgs[k * count : (k + 1) * count]) for k in range(len(names))]


def mean_precision(labels: list[_Label], weights: Array) -> Array:
    """(r,) mAP with (r, N) weights of the images: the mean over the labels that have boxes; 0 where none has."""
    if not labels:
        return np.zeros(len(weights))
    each = np.stack([label.precision(weights) for label in labels])
    known = ~np.isnan(each)
    return np.asarray(np.nansum(each, 0) / np.maximum(known.sum(0), 1))


def compared(ours: Any, floats: Any, known: Any, draws: Draws) -> Figure:
    """mAP of both models, and the change with images drawn together with their pair."""
    count = len(known)
    resamples = min(draws.resamples, MOST_DRAWS)
    generator = np.random.default_rng(draws.seed)
    weights = generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    every = np.concatenate([np.ones((1, count)), weights])
    mine, theirs = (
        np.concatenate([mean_precision(labels, part) for part in np.array_split(every, max(1, len(every) // 8))])
        for labels in (labels_of(ours, known), labels_of(floats, known))
    )

    def interval(values: Array, method: str) -> Interval:
        low, high = ends(values[1:], draws.level)
        value = float(values[0])
        return Interval(value, min(low, value), max(high, value), draws.level, method)

    change = interval(mine - theirs, "paired bootstrap")
    return Figure(MAP, interval(mine, "bootstrap"), interval(theirs, "bootstrap"), change)
