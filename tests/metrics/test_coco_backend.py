import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldkit.errors import UsageError
from ldkit.metrics import coco_backend
from ldkit.metrics.coco_backend import evaluator_named
from ldkit.metrics.coco_eval import CocoMetrics, evaluate_coco
from ldkit.metrics.results import CocoResult

CATEGORIES = (5, 2, 9)
SIDES = st.sampled_from([5.0, 20.0, 40.0, 80.0, 160.0])
CORNERS = st.integers(0, 6).map(lambda number: 10.0 * number)
PLACES = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([1, 4, 7]),
        "category_id": st.sampled_from(CATEGORIES),
        "bbox": st.tuples(CORNERS, CORNERS, SIDES, SIDES).map(list),
    }
)
CROWDS = st.sampled_from([0, 0, 0, 1])
FILLINGS = st.sampled_from([1.0, 0.5, 0.1])
SHRINKS = st.sampled_from([1.0, 0.9, 0.7, 0.6])
SCORES = st.sampled_from([0.1, 0.5, 0.9])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[str, Any], list[CocoResult]]:
    """Draw a COCO document with crowds, odd areas and classes without objects, and results."""
    objects = draw(st.lists(PLACES, max_size=12))
    annotations = [
        {
            **row,
            "id": number,
            "iscrowd": draw(CROWDS),
            "area": row["bbox"][2] * row["bbox"][3] * draw(FILLINGS),
        }
        for number, row in enumerate(objects)
    ]
    document = {
        "info": {"area_scale": draw(st.sampled_from([1.0, 4.0]))},
        "images": [{"id": number} for number in (7, 1, 4)],
        "categories": [{"id": number, "name": f"c{number}"} for number in CATEGORIES],
        "annotations": annotations,
    }
    near = st.sampled_from(objects) if objects else PLACES
    results = []
    for row in draw(st.lists(near | PLACES, max_size=30)):
        x, y, width, height = row["bbox"]
        box = [x, y, width * draw(SHRINKS), height]
        results.append(CocoResult(**{**row, "bbox": box, "score": draw(SCORES)}))
    return document, results


def figures(metrics: CocoMetrics) -> list[float | None]:
    by_class = [found.ap for found in metrics.class_ap]
    return [*metrics.figures().values(), *metrics.ap_by_iou, *by_class]


@pytest.mark.law
@given(scene=scenes(), image_ids=st.sampled_from([None, [4], [1, 7]]))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_both_evaluators_give_equal_figures(
    tmp_path: Path, scene: tuple[dict[str, Any], list[CocoResult]], image_ids: list[int] | None
) -> None:
    document, results = scene
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    slow = evaluate_coco(path, results, image_ids, "pycocotools")
    fast = evaluate_coco(path, results, image_ids, "faster-coco-eval")
    assert figures(fast) == pytest.approx(figures(slow), abs=1e-15)
    assert [found.category_id for found in fast.class_ap] == list(CATEGORIES)
    assert (fast.images, fast.evaluator) == (slow.images, "faster-coco-eval")


@pytest.mark.contract
def test_the_faster_evaluator_is_taken_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert evaluator_named(None) == "faster-coco-eval"
    monkeypatch.setattr(coco_backend, "find_spec", lambda _: None)
    assert evaluator_named(None) == "pycocotools"
    monkeypatch.setattr(coco_backend, "find_spec", lambda name: ModuleSpec(name, None))
    assert evaluator_named(None) == "faster-coco-eval"
    assert evaluator_named("pycocotools") == "pycocotools"


@pytest.mark.contract
def test_an_evaluator_that_is_absent_or_unknown_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError) as caught:
        evaluator_named("cocoapi")
    assert str(caught.value) == (
        "--evaluator: there is no evaluator 'cocoapi'.\nTake pycocotools or faster-coco-eval."
    )
    monkeypatch.setattr(coco_backend, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as caught:
        evaluator_named("faster-coco-eval")
    assert str(caught.value) == (
        "--evaluator: faster-coco-eval is not installed.\n"
        "Install it (`pip install 'ldkit[fast]'`), or take pycocotools: its figures are the same."
    )


@pytest.mark.contract
def test_neither_evaluator_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    document: dict[str, Any] = {"images": [{"id": 1}], "categories": [], "annotations": []}
    path.write_text(json.dumps(document))
    evaluate_coco(path, [], evaluator="pycocotools")
    evaluate_coco(path, [], evaluator="faster-coco-eval")
    assert capsys.readouterr() == ("", "")
