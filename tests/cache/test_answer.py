import numpy as np
import pytest
import torch

from ldkit.cache.answer import Target, image_of_rows, teacher_rows
from ldkit.cache.canvas import moves
from ldkit.cache.gather import Gathered

STAY = Target(None, torch.device("cpu"))


def gathered(counts: list[int], **columns: np.ndarray) -> Gathered:
    named = {name.replace("__", "."): values for name, values in columns.items()}
    return Gathered(np.array(counts, np.int64), named)


MAIN = gathered(
    [2, 0, 1],
    main__location=np.array([2, 4, 0], np.uint16),
    main__gt_index=np.array([0, 2, 1], np.uint16),
    main__bbox_logits=np.ones((3, 4, 5), np.float16),
)


@pytest.mark.law
def test_rows_know_their_image_and_their_place_on_the_larger_canvas() -> None:
    assert image_of_rows(np.array([2, 0, 1])).tolist() == [0, 0, 2]
    found = teacher_rows({"main": MAIN}, STAY).main
    assert found.rows.image.tolist() == [0, 0, 2]
    assert found.rows.location.tolist() == [2, 4, 0]
    assert found.rows.gt_index.tolist() == [0, 2, 1]
    assert found.cls_logits is None
    # 16 x 16 pixels have 2 x 2 cells of stride 8 and one of stride 16; 16 x 24 have 2 x 3 and 2.
    target = STAY._replace(moves=moves([(16, 16)] * 3, (16, 24), (8, 16)))
    assert teacher_rows({"main": MAIN}, target).main.rows.location.tolist() == [3, 6, 0]


@pytest.mark.law
def test_rows_of_classes_count_over_the_batch() -> None:
    score = gathered(
        [2, 0, 3],
        score__location=np.array([0, 1, 0, 2, 3], np.uint16),
        score__bbox_logits=np.zeros((5, 4, 5), np.float32),
    )
    classes = gathered(
        [3, 0, 2],
        score_class__row=np.array([0, 0, 1, 0, 2], np.uint16),
        score_class__label=np.array([0, 2, 1, 1, 0], np.uint16),
        score_class__logit=np.arange(5, dtype=np.float16),
    )
    found = teacher_rows({"main": MAIN, "score": score, "score_class": classes}, STAY).score
    assert found is not None
    assert found.row.tolist() == [0, 0, 1, 2, 4]
    assert found.label.tolist() == [0, 2, 1, 1, 0]
    assert found.logit.tolist() == [0, 1, 2, 3, 4]
    assert found.image.tolist() == [0, 0, 2, 2, 2]


@pytest.mark.law
@pytest.mark.parametrize("views", [0, 3])
def test_statistics_stand_by_view_and_level(views) -> None:
    values = np.arange(views * 2 * 2 * 4, dtype=np.float32).reshape(views * 2, 2, 4)
    cross = gathered([2] * views, cross__mean=values, cross__std=values + 1)
    found = teacher_rows({"main": MAIN, "cross": cross}, STAY).cross
    assert found is not None
    assert found.mean.flatten().tolist() == values.ravel().tolist()
    assert found.mean.shape[0] == found.std.shape[0] == views
    if views:
        assert found.std.shape == (3, 2, 2, 4)
