"""The two programs that evaluate COCO: pycocotools, and faster-coco-eval where it is installed.

Their figures are equal (but for the last bit of a double: one adds a spacing to its denominators),
so which of them runs is a question of time alone. The second does in C++ what the first does in
Python; it comes with the extra `fast`.
"""

import io
from collections.abc import Collection
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, assert_never, get_args

import numpy as np
from jaxtyping import Float64
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ldkit.errors import UsageError

Evaluator = Literal["pycocotools", "faster-coco-eval"]
Document = dict[str, Any]


class Evaluation(NamedTuple):
    """What an evaluator found; -1 stands for 'no such objects'.

    Axes: T IoU thresholds · R recalls · C categories, by rising id. `precision` is that of
    objects of any size at 100 boxes per image.
    """

    stats: Float64[np.ndarray, "12"]
    precision: Float64[np.ndarray, "T R C"]
    images: int


def evaluator_named(name: str | None) -> Evaluator:
    """Return the evaluator of that name; without a name the faster one, where it is installed.

    Raises:
        UsageError: There is no such evaluator, or it is not installed.
    """
    if name is None:
        return "faster-coco-eval" if _is_fast_installed() else "pycocotools"
    known: dict[str, Evaluator] = {each: each for each in get_args(Evaluator)}
    if name not in known:
        raise UsageError(
            f"there is no evaluator {name!r}.",
            where="--evaluator",
            hint=f"Take {' or '.join(known)}.",
        )
    if name == "faster-coco-eval" and not _is_fast_installed():
        raise UsageError(
            "faster-coco-eval is not installed.",
            where="--evaluator",
            hint="Install it (`pip install 'ldkit[fast]'`), or take pycocotools: its figures are "
            "the same.",
        )
    return known[name]


def _is_fast_installed() -> bool:
    return find_spec("faster_coco_eval") is not None


def evaluate(
    evaluator: Evaluator, truth: Document, found: Document, image_ids: Collection[int] | None
) -> Evaluation:
    """Return the evaluation of one COCO document against another, of all images or of some.

    Annotations of both need ids from 1: the evaluators take the id 0 for unmatched.
    """
    match evaluator:
        case "pycocotools":
            with redirect_stdout(io.StringIO()):
                evaluation = COCOeval(_indexed(truth), _indexed(found), "bbox")
                return _run(evaluation, image_ids)
        case "faster-coco-eval":
            import faster_coco_eval as fast  # an extra, which may be absent

            evaluation = fast.COCOeval_faster(fast.COCO(truth), fast.COCO(found), "bbox")
            return _run(evaluation, image_ids)
        case _:
            assert_never(evaluator)


def _indexed(document: Document) -> COCO:
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def _run(evaluation: Any, image_ids: Collection[int] | None) -> Evaluation:
    if image_ids is not None:
        evaluation.params.imgIds = sorted(set(image_ids))
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    # axes: thresholds, recalls, classes, areas (0: all), boxes per image (-1: 100)
    precision_TRC = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    return Evaluation(np.asarray(evaluation.stats), precision_TRC, len(evaluation.params.imgIds))
