import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ldkit.errors import DataError
from ldkit.metrics.coco_backend import Evaluator
from ldkit.metrics.coco_eval import FIGURES, evaluate_coco
from ldkit.metrics.results import CocoResult

GOLDEN = Path(__file__).parents[1] / "golden"
TRUTH = GOLDEN / "g_eval_gt.json"
EXPECTED = json.loads((GOLDEN / "g_eval.json").read_text())


def golden_results() -> list[CocoResult]:
    results: list[CocoResult] = json.loads((GOLDEN / "g_eval_dets.json").read_text())
    return results


def annotation(number: int, image_id: int, category_id: int, **more: Any) -> dict[str, Any]:
    box = [10.0 * number, 5.0, 8.0, 40.0]
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


def written(path: Path, annotations: list[dict[str, Any]]) -> Path:
    document = {
        "images": [{"id": number, "width": 200, "height": 100} for number in (1, 2, 3)],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(document))
    return path


def perfect(annotations: list[dict[str, Any]]) -> list[CocoResult]:
    return [
        CocoResult(
            image_id=row["image_id"], category_id=row["category_id"], bbox=row["bbox"], score=0.5
        )
        for row in annotations
    ]


@pytest.mark.golden
@pytest.mark.parametrize(
    ("evaluator", "last_bit"), [("pycocotools", 0.0), ("faster-coco-eval", 2.3e-16)]
)
def test_the_twelve_figures_and_the_classes_are_those_of_pycocotools(
    evaluator: Evaluator, last_bit: float
) -> None:
    metrics = evaluate_coco(TRUTH, golden_results(), evaluator=evaluator)
    assert metrics.evaluator == evaluator
    assert list(metrics.figures().values()) == pytest.approx(EXPECTED["stats"], rel=0, abs=last_bit)
    assert tuple(metrics.figures()) == FIGURES
    by_class = [found.ap for found in metrics.class_ap]
    assert by_class == pytest.approx(EXPECTED["per_class_AP"], rel=1e-14)
    assert [found.category_id for found in metrics.class_ap] == EXPECTED["cat_ids"]
    assert [found.name for found in metrics.class_ap] == ["c0", "c1", "c2", "c3", "c4"]
    assert metrics.ap_by_iou == pytest.approx(EXPECTED["ap_by_iou"], rel=1e-12)
    assert metrics.images == 50


@pytest.mark.law
def test_the_order_of_results_and_the_ids_of_annotations_do_not_matter(tmp_path: Path) -> None:
    document = json.loads(TRUTH.read_text())
    for number, row in enumerate(document["annotations"]):
        row["id"] = 7 * (number // 2)  # from 0, and each twice
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    shuffled = golden_results()
    random.Random(0).shuffle(shuffled)
    assert evaluate_coco(path, shuffled).figures() == pytest.approx(
        evaluate_coco(TRUTH, golden_results()).figures(), abs=1e-12
    )


@pytest.mark.law
@pytest.mark.parametrize("first_id", [0, 1])
def test_perfect_results_score_one_even_with_an_annotation_id_of_zero(
    tmp_path: Path, first_id: int
) -> None:
    rows = [annotation(number, 1 + number % 3, 2 + 3 * (number % 2)) for number in range(12)]
    for row in rows:
        row["id"] += first_id
    metrics = evaluate_coco(written(tmp_path / "truth.json", rows), perfect(rows))
    assert metrics.ap == metrics.ap50 == metrics.ar100 == pytest.approx(1.0)
    assert all(value == pytest.approx(1.0) for value in metrics.ap_by_iou)


@pytest.mark.law
def test_no_results_at_all_score_zero() -> None:
    metrics = evaluate_coco(TRUTH, [])
    assert set(metrics.figures().values()) == {0.0}
    assert {found.ap for found in metrics.class_ap} == {0.0}


@pytest.mark.law
def test_a_figure_without_objects_is_none_and_not_minus_one(tmp_path: Path) -> None:
    rows = [annotation(1, 1, 2)]
    metrics = evaluate_coco(written(tmp_path / "truth.json", rows), perfect(rows))
    assert metrics.ap == metrics.ap_small == pytest.approx(1.0)
    assert metrics.ap_large is metrics.ar_medium is None
    assert {found.name: found.ap for found in metrics.class_ap} == {
        "dog": pytest.approx(1.0),
        "cat": None,
    }
    empty = evaluate_coco(written(tmp_path / "empty.json", []), [])
    assert set(empty.figures().values()) == {None}
    assert set(empty.ap_by_iou) == {None}
    json.dumps(empty.as_dict(), allow_nan=False)


@pytest.mark.law
def test_an_evaluation_of_some_images_equals_that_of_a_file_with_only_these(
    tmp_path: Path,
) -> None:
    document = json.loads(TRUTH.read_text())
    kept = [row["id"] for row in document["images"]][::3]
    smaller = copy.deepcopy(document)
    smaller["images"] = [row for row in smaller["images"] if row["id"] in kept]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(smaller))
    results = golden_results()
    there = [row for row in results if row["image_id"] in kept]
    some = evaluate_coco(TRUTH, results, kept)
    assert some == evaluate_coco(path, there)
    assert some.images == len(kept)
    assert some != evaluate_coco(TRUTH, results)


@pytest.mark.contract
def test_area_and_crowd_may_be_missing(tmp_path: Path) -> None:
    bare = [annotation(number, 1, 2) for number in range(3)]
    full = [annotation(number, 1, 2, area=320.0, iscrowd=0) for number in range(3)]
    results = perfect(bare)[:2]
    assert evaluate_coco(written(tmp_path / "bare.json", bare), results) == evaluate_coco(
        written(tmp_path / "full.json", full), results
    )


@pytest.mark.contract
def test_results_are_not_changed_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    results = golden_results()
    before = copy.deepcopy(results)
    evaluate_coco(TRUTH, results)
    assert results == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.contract
def test_unknown_ids_are_refused_all_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "truth.json", [annotation(1, 1, 2)])
    rows = [annotation(number, 90 + number, 77) for number in range(8)]
    with pytest.raises(DataError) as caught:
        evaluate_coco(path, perfect(rows), [1, 12])
    assert str(caught.value) == (
        f"{path}: does not know these ids.\n"
        "  images of results: 90, 91, 92, 93, 94 and 3 more\n"
        "  categories of results: 77\n"
        "  images to evaluate: 12\n"
        "The results come from another set of images or classes. Evaluate a split of the data set "
        "that the model was made for."
    )


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "cannot be read: No such file or directory."),
        ("", "is not JSON: Expecting value"),
        ('{"images": [', "is not JSON: Expecting value"),
        ("[]", "has no images and no annotations and no categories"),
        ('{"images": [], "categories": []}', "has no annotations, so nothing can be evaluated"),
    ],
)
def test_an_unusable_annotation_file_is_reported(
    tmp_path: Path, content: str | None, found: str
) -> None:
    path = tmp_path / "truth.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        evaluate_coco(path, [])
    assert str(caught.value).startswith(f"{path}: {found}")
    assert "images, annotations and categories" in str(caught.value)


@pytest.mark.contract
def test_an_annotation_without_a_box_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "truth.json", [{"id": 1, "image_id": 1, "category_id": 2}])
    with pytest.raises(DataError, match=r"without a proper image_id, category_id or bbox \('bbox'"):
        evaluate_coco(path, [])
