"""COCO files become records; what matters in them has a fingerprint."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldkit.data.coco import Category, CocoIndex, training_records
from ldkit.errors import DataError
from tests.data.coco_files import Row, annotation, categories, image, write_coco, write_json

BOX = [5.0, 6.0, 20.0, 10.0]


def read(root: Path, images: list[Row], annotations: list[Row]) -> CocoIndex:
    return CocoIndex.read(*write_coco(root, images, annotations))


@pytest.mark.contract
def test_records_are_sorted_by_id_and_boxes_keep_file_order(tmp_path: Path) -> None:
    boxes = [annotation(n, image_id, [n, 1, 2, 3]) for n, image_id in ((4, 9), (3, 2), (1, 9))]
    index = read(tmp_path, [image(9), image(2), image(5)], boxes)
    assert list(index.records) == [2, 5, 9]
    assert index.records[9].boxes.tolist() == [[4, 1, 6, 4], [1, 1, 3, 4]]
    assert index.records[5].boxes.shape == (0, 4)
    assert index.records[2].hw == (40, 60)
    assert index.records[2].path == tmp_path / "images" / "000002.png"


@pytest.mark.law
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=9, unique=True), data=st.data())
def test_category_ids_become_labels_in_file_order_and_come_back(
    tmp_path: Path, ids: list[int], data: st.DataObject
) -> None:
    used = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=12))
    boxes = [annotation(n, 1, BOX, category_id=category) for n, category in enumerate(used)]
    folder, _ = write_coco(tmp_path, [image(1)], [])
    named = [{"id": id_, "name": f"class {id_}"} for id_ in ids]
    document = {"images": [image(1)], "annotations": boxes, "categories": named}
    index = CocoIndex.read(folder, write_json(tmp_path / "ids.json", document))
    labels = index.records[1].labels.tolist()
    assert index.categories == tuple(Category(id_, f"class {id_}") for id_ in ids)
    assert [index.categories[label].id for label in labels] == used
    assert [index.label_of[category] for category in used] == labels


@pytest.mark.law
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(x=st.floats(-30, 58), y=st.floats(-30, 38), width=st.floats(1, 99), height=st.floats(1, 99))
def test_boxes_are_clipped_to_their_image(
    tmp_path: Path, x: float, y: float, width: float, height: float
) -> None:
    folder, path = write_coco(tmp_path, [image(1)], [annotation(1, 1, [x, y, width, height])])
    boxes = CocoIndex.read(folder, path, "drop").records[1].boxes
    if len(boxes):
        expected = [max(x, 0), max(y, 0), min(x + width, 60), min(y + height, 40)]
        np.testing.assert_allclose(boxes[0], expected, rtol=1e-6, atol=1e-5)


Change = dict[str, Any]
MATTERS: list[tuple[str, int, Change]] = [
    ("images", 0, {"height": 41}),
    ("images", 0, {"id": 3}),
    ("annotations", 0, {"bbox": [5.0, 6.0, 20.0, 10.5]}),
    ("annotations", 0, {"category_id": 3}),
    ("annotations", 0, {"image_id": 2}),
    ("annotations", 0, {"iscrowd": 1}),
    ("categories", 0, {"name": "lorry"}),
    ("categories", 0, {"id": 4}),
]
DOES_NOT_MATTER: list[tuple[str, int, Change]] = [
    ("images", 0, {"license": 4, "date_captured": "2013"}),
    ("annotations", 0, {"segmentation": [[1, 2, 3, 4]], "id": 77}),
    ("annotations", 0, {"area": 12.5}),
    ("categories", 0, {"supercategory": "vehicle"}),
]


def changed(root: Path, name: str, row: int, change: Change) -> tuple[str, str]:
    images, boxes = [image(1), image(2)], [annotation(5, 1, BOX), annotation(6, 2, BOX)]
    document = {"images": images, "annotations": boxes, "categories": categories()}
    folder, _ = write_coco(root, images, boxes)
    other = copy.deepcopy(document)
    if change.get("id") == 3:
        boxes = other["annotations"]
        boxes[0]["image_id"] = 3
    other[name][row] |= change
    before = CocoIndex.read(folder, write_json(root / "a.json", document)).fingerprint
    return before, CocoIndex.read(folder, write_json(root / "b.json", other)).fingerprint


@pytest.mark.contract
@pytest.mark.parametrize(("name", "row", "change"), MATTERS)
def test_the_fingerprint_follows_what_is_learned_from(
    tmp_path: Path, name: str, row: int, change: Change
) -> None:
    before, after = changed(tmp_path, name, row, change)
    assert before != after


@pytest.mark.contract
@pytest.mark.parametrize(("name", "row", "change"), DOES_NOT_MATTER)
def test_the_fingerprint_ignores_the_rest(
    tmp_path: Path, name: str, row: int, change: Change
) -> None:
    before, after = changed(tmp_path, name, row, change)
    assert before == after


@pytest.mark.law
def test_the_fingerprint_knows_neither_the_folder_nor_the_order_of_images(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    boxes = [annotation(5, 1, BOX), annotation(6, 2, BOX)]
    one = read(tmp_path, [image(1), image(2)], boxes)
    other = read(tmp_path / "elsewhere", [image(2), image(1)], boxes[::-1])
    assert one.fingerprint == other.fingerprint


@pytest.mark.contract
def test_training_leaves_out_empty_and_narrow_images(tmp_path: Path) -> None:
    images = [image(1), image(2, (31, 90)), image(3, (32, 32)), image(4)]
    boxes = [annotation(n, n, [1, 1, 9, 9]) for n in (1, 2, 3)]
    index = read(tmp_path, images, [*boxes, annotation(4, 4, BOX, iscrowd=1)])
    assert list(index.records) == [1, 2, 3, 4]
    assert list(training_records(index)) == [1, 3]


@pytest.mark.contract
def test_nothing_to_train_on_is_an_error_that_says_why(tmp_path: Path) -> None:
    index = read(tmp_path, [image(1), image(2)], [annotation(1, 1, BOX, area=0)])
    with pytest.raises(DataError, match="none of the 2 images can be trained on") as caught:
        training_records(index)
    assert "1 without area" in caught.value.hint


@pytest.mark.contract
def test_an_image_list_is_read_only_where_it_is_asked_for(tmp_path: Path) -> None:
    folder, _ = write_coco(tmp_path, [image(2), image(1)], [])
    document = {"images": [image(2), image(1)], "categories": categories()}
    path = write_json(tmp_path / "image_info_test-dev.json", document)
    with pytest.raises(DataError, match="lists images without `annotations`") as caught:
        CocoIndex.read(folder, path)
    assert "`data.test_dev`" in caught.value.hint
    index = CocoIndex.read_image_list(folder, path)
    assert list(index.records) == [1, 2]
    assert index.class_names == ("car", "person", "toothbrush")
    assert sum(len(record.boxes) for record in index.records.values()) == 0


@pytest.mark.contract
def test_an_image_list_is_checked_too(tmp_path: Path) -> None:
    path = write_json(tmp_path / "list.json", {"images": [image(1)], "categories": []})
    with pytest.raises(DataError, match="2 problems") as caught:
        CocoIndex.read_image_list(tmp_path, path)
    assert "the file is missing" in caught.value.message
    assert "`categories` has no entries" in caught.value.message
