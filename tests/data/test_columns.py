"""Every mistake in a COCO file is found, and named by image and annotation."""

from pathlib import Path
from typing import Any

import pytest

from ldkit.data.coco import CocoIndex
from ldkit.data.columns import whole_numbers
from ldkit.errors import DataError
from tests.data.coco_files import Row, annotation, categories, image, write_coco, write_json

GOOD = [5.0, 6.0, 20.0, 10.0]


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Row]:
    """A good data set of two images: its folder, and its document to spoil."""
    images = [image(7), image(8)]
    annotations = [annotation(11, 7, GOOD), annotation(12, 8, GOOD)]
    folder, _ = write_coco(tmp_path, images, annotations)
    return folder, {"images": images, "annotations": annotations, "categories": categories()}


def complaint(folder: Path, document: Row) -> str:
    path = write_json(folder.parent / "spoilt.json", document)
    with pytest.raises(DataError) as caught:
        CocoIndex.read(folder, path)
    assert caught.value.where == str(path)
    assert caught.value.hint.startswith("Nothing was started.")
    return caught.value.message


FIRST, SECOND = "image 7 ('000007.png')", "image 8 ('000008.png')"
BOX = "annotation 12 of image 8"
SPOILT: list[tuple[str, int, str, Any, str]] = [
    ("images", 1, "id", 7, "image 7 ('000008.png'): the id occurs more than once."),
    ("images", 1, "id", "8", "image '8' ('000008.png'): the id is not a whole number."),
    ("images", 1, "id", 2**70, "the id is not a whole number."),
    ("images", 1, "width", 0, f"{SECOND}: width 0 and height 40 are not positive whole numbers."),
    ("images", 1, "height", None, f"{SECOND}: width 60 and height None are not positive"),
    ("images", 1, "file_name", "", "image 8 (''): file_name is not a text."),
    ("images", 1, "file_name", 5, "image 8 (5): file_name is not a text."),
    ("images", 1, "file_name", "../a.png", "file_name leads out of the image folder"),
    ("images", 1, "file_name", "/etc/passwd", "file_name leads out of the image folder"),
    ("images", 1, "file_name", "none.png", "image 8 ('none.png'): the file is missing in"),
    ("images", 1, "file_name", "sub/none.png", "the file is missing in"),
    ("images", 1, "file_name", "a\0b.png", "the file is missing in"),
    ("images", 1, "file_name", "a\0b/c.png", "the file is missing in"),
    ("categories", 1, "id", 3, "category 3 ('person'): the id occurs more than once."),
    ("categories", 1, "id", None, "category None ('person'): the id is not a whole number."),
    ("categories", 1, "name", 4, "category 1 (4): the name is not a text."),
    ("annotations", 1, "id", 11, "annotation 11 of image 8: the id occurs more than once."),
    ("annotations", 1, "image_id", 9, "annotation 12 of image 9: there is no such image."),
    ("annotations", 1, "image_id", None, "annotation 12 of image None: there is no such image."),
    ("annotations", 1, "category_id", 2, f"{BOX}: there is no category 2."),
    ("annotations", 1, "iscrowd", 2, f"{BOX}: iscrowd is 2, not 0 or 1."),
    ("annotations", 1, "iscrowd", "0", f"{BOX}: iscrowd is '0', not 0 or 1."),
    ("annotations", 1, "bbox", None, f"{BOX}: bbox None is not four finite numbers."),
    ("annotations", 1, "bbox", [1, 2, 3], f"{BOX}: bbox [1, 2, 3] is not four finite numbers."),
    ("annotations", 1, "bbox", [1, 2, 3, "4"], f"{BOX}: bbox [1, 2, 3, '4'] is not four finite"),
    ("annotations", 1, "bbox", [1, 2, 3, float("nan")], f"{BOX}: bbox [1, 2, 3, nan] is not four"),
    ("annotations", 1, "bbox", [1, float("inf"), 3, 4], f"{BOX}: bbox [1, inf, 3, 4] is not four"),
    ("annotations", 1, "bbox", [1, 2, 3, 10**400], f"{BOX}: bbox [1, 2, 3, 1000"),
    ("annotations", 1, "area", float("nan"), f"{BOX}: area nan is not a finite number."),
    ("annotations", 1, "area", "big", f"{BOX}: area 'big' is not a finite number."),
    ("annotations", 1, "bbox", [60, 5, 9, 9], f"{BOX}: bbox [60, 5, 9, 9] lies outside its image "),
    ("annotations", 1, "bbox", [5, -9, 9, 9], "outside its image of 60 x 40 (width x height)."),
    ("annotations", 1, "bbox", [5, 5, -9, 9], f"{BOX}: bbox [5, 5, -9, 9] has a negative width"),
]


@pytest.mark.contract
@pytest.mark.parametrize(("name", "row", "field", "value", "expected"), SPOILT)
def test_one_spoilt_field_is_one_named_problem(
    good: tuple[Path, Row], name: str, row: int, field: str, value: object, expected: str
) -> None:
    folder, document = good
    document[name][row][field] = value
    told = complaint(folder, document)
    assert expected in told


@pytest.mark.contract
def test_the_good_file_is_read(good: tuple[Path, Row]) -> None:
    folder, document = good
    index = CocoIndex.read(folder, write_json(folder.parent / "good.json", document))
    assert list(index.records) == [7, 8]


@pytest.mark.contract
@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_a_section_that_is_no_list_is_told(good: tuple[Path, Row], name: str) -> None:
    folder, document = good
    assert f"`{name}` is a number, not a list." in complaint(folder, document | {name: 3})


@pytest.mark.contract
def test_an_object_without_sections_is_told(tmp_path: Path) -> None:
    told = complaint(tmp_path / "images", {})
    assert told.startswith("4 problems"), "the folder is missing as well"
    assert all(f"`{name}` is missing" in told for name in ("images", "annotations", "categories"))


@pytest.mark.contract
def test_problems_of_all_sections_are_told_at_once(good: tuple[Path, Row]) -> None:
    folder, document = good
    document["images"][0]["file_name"] = "none.png"
    document["annotations"][0]["category_id"] = 44
    document["annotations"][1]["bbox"] = [500, 500, 10, 10]
    document["categories"][2]["id"] = "x"
    told = complaint(folder, document)
    assert told.startswith("4 problems\n\n  ")
    for part in ("none.png", "no category 44", "[500, 500, 10, 10]", "category 'x'"):
        assert part in told


@pytest.mark.contract
def test_a_thousand_bad_boxes_show_ten_and_count_the_rest(good: tuple[Path, Row]) -> None:
    folder, document = good
    document["annotations"] = [annotation(n, 7, [-50, 0, 5, 5]) for n in range(1000)]
    told = complaint(folder, document)
    assert told.startswith("1000 problems")
    assert told.count("outside its image") == 10
    assert "and 990 more" in told


@pytest.mark.contract
def test_a_missing_image_folder_is_one_problem(good: tuple[Path, Row]) -> None:
    folder, document = good
    told = complaint(folder.parent / "nowhere", document)
    assert (
        told.strip() == f"1 problem\n\n  the image folder {folder.parent}/nowhere does not exist."
    )


@pytest.mark.contract
def test_images_may_lie_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    row = image(1) | {"file_name": "./sub/a.png"}
    folder, path = write_coco(tmp_path, [row], [annotation(1, 1, GOOD)])
    assert CocoIndex.read(folder, path).records[1].path == folder / "sub" / "a.png"


@pytest.mark.law
def test_whole_numbers_are_told_from_all_else() -> None:
    values = [0, -5, 2**60, 1.0, "1", None, [1], 2**53 - 1]
    numbers, is_whole = whole_numbers(values)
    assert is_whole.tolist() == [True, True, False, False, False, False, False, True]
    assert numbers[is_whole].tolist() == [0, -5, 2**53 - 1]
