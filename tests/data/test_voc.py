from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.data.coco import training_records
from ldkit.data.voc import CLASSES, read_voc
from ldkit.errors import DataError
from tests.data.voc_files import Object, annotation, write_set

CAT: Object = ("cat", (11, 6, 30, 25), 0)
DOG: Object = ("dog", (1, 1, 60, 40), 1)
CAR: Object = ("car", (5, 5.7, 20, 20), None)


def complaint(root: Path, *sets: str) -> str:
    with pytest.raises(DataError) as caught:
        read_voc(root, sets or ("VOC2007/trainval",))
    assert caught.value.where == str(root)
    return str(caught.value).removeprefix(f"{root}: ")


@pytest.mark.golden
def test_boxes_are_the_numbers_of_the_file_less_one_and_difficult_ones_are_not_learnt(
    tmp_path: Path,
) -> None:
    write_set(tmp_path, "VOC2007/trainval", {"000012": annotation([CAR]),
                                             "000005": annotation([CAT, DOG])})  # fmt: skip
    data = read_voc(tmp_path, ["VOC2007/trainval"])
    assert list(data.index.records) == [5, 12]
    first, second = data.index.records.values()
    assert first.path == tmp_path / "VOC2007/JPEGImages/000005.jpg"
    assert first.hw == (40, 60)
    assert first.boxes.tolist() == [[10, 5, 29, 24]]
    assert second.boxes.tolist() == [[4, 4, 19, 19]]  # 5.7 is cut to 5, as published
    assert [data.index.class_names[record.labels[0]] for record in (first, second)] == [
        "cat",
        "car",
    ]
    assert data.objects.image_id.tolist() == [5, 5, 12]
    assert data.objects.boxes.tolist()[:2] == [[10, 5, 29, 24], [0, 0, 59, 39]]
    assert data.objects.is_difficult.tolist() == [False, True, False]
    named = [CLASSES[number - 1] for number in data.objects.category_id]
    assert named == ["cat", "dog", "car"]
    assert data.index.crowds == 1
    assert data.index.notes == ("Boxes left out: 1 marked as difficult, as published.",)


@pytest.mark.golden
def test_there_are_twenty_classes_in_the_order_of_voc(tmp_path: Path) -> None:
    write_set(tmp_path, "VOC2007/trainval", {"000005": annotation([CAT])})
    categories = read_voc(tmp_path, ["VOC2007/trainval"]).index.categories
    assert [category.id for category in categories] == list(range(1, 21))
    assert [categories[number].name for number in (0, 10, 19)] == [
        "aeroplane",
        "diningtable",
        "tvmonitor",
    ]


@pytest.mark.contract
def test_several_sets_are_one_data_set(tmp_path: Path) -> None:
    write_set(tmp_path, "VOC2007/trainval", {"000005": annotation([CAT])})
    write_set(tmp_path, "VOC2012/trainval", {"2008_000002": annotation([CAT, CAT])})
    index = read_voc(tmp_path, ["VOC2007/trainval", "VOC2012/trainval"]).index
    assert list(index.records) == [5, 2008000002]
    assert [len(record.boxes) for record in index.records.values()] == [1, 2]
    swapped = read_voc(tmp_path, ["VOC2012/trainval", "VOC2007/trainval"]).index
    assert swapped.fingerprint == index.fingerprint
    alone = read_voc(tmp_path, ["VOC2007/trainval"]).index
    assert alone.fingerprint != index.fingerprint


@pytest.mark.contract
@pytest.mark.parametrize("names", [("000005", "b_side"), ("12", "1_2")])
def test_images_without_numbers_of_their_own_are_counted(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    write_set(tmp_path, "own/all", dict.fromkeys(names, annotation([CAT])))
    records = read_voc(tmp_path, ["own/all"]).index.records
    assert [(image_id, record.path.stem) for image_id, record in records.items()] == [
        (1, names[0]),
        (2, names[1]),
    ]


@pytest.mark.law
@given(
    boxes=st.lists(
        st.tuples(st.integers(1, 50), st.integers(1, 30), st.integers(2, 10), st.integers(2, 10)),
        max_size=6,
    ),
    difficult=st.lists(st.sampled_from([0, 1, None]), min_size=6, max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_every_object_is_either_learnt_or_difficult(
    tmp_path_factory: pytest.TempPathFactory,
    boxes: list[tuple[int, int, int, int]],
    difficult: list[int | None],
) -> None:
    root = tmp_path_factory.mktemp("voc")
    objects: list[Object] = [
        ("cat", (x, y, x + width, y + height), flag)
        for (x, y, width, height), flag in zip(boxes, difficult, strict=False)
    ]
    write_set(root, "VOC2007/test", {"000001": annotation(objects)})
    data = read_voc(root, ["VOC2007/test"])
    learnt = data.index.records[1].boxes
    np.testing.assert_array_equal(learnt, data.objects.boxes[~data.objects.is_difficult])
    assert len(data.objects.boxes) == len(boxes)


@pytest.mark.contract
def test_an_image_with_difficult_objects_only_is_not_trained_on(tmp_path: Path) -> None:
    content = {"000005": annotation([CAT]), "000006": annotation([DOG])}
    write_set(tmp_path, "VOC2007/trainval", content)
    index = read_voc(tmp_path, ["VOC2007/trainval"]).index
    assert list(index.records) == [5, 6]
    assert list(training_records(index)) == [5]


@pytest.mark.contract
def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    good = annotation([CAT])
    content = {
        "000001": good.replace("<name>cat</name>", "").replace("<xmin>11</xmin>", ""),
        "000002": good.replace("cat", "unicorn"),
        "000003": good.removesuffix("</annotation>"),
        "000004": good,
        "000005": good,
        "000006": annotation([("cat", (30, 6, 11, 25), 0)]),
        "000007": annotation([("cat", (300, 6, 311, 25), 0)]),
    }
    write_set(tmp_path, "VOC2007/trainval", content)
    (tmp_path / "VOC2007/Annotations/000004.xml").unlink()
    (tmp_path / "VOC2007/JPEGImages/000005.jpg").unlink()
    told = complaint(tmp_path, "VOC2007/trainval", "VOC2007/tset")
    assert told == (
        "9 problems\n"
        "\n"
        "  VOC2007/ImageSets/Main/tset.txt: the file is missing.\n"
        "  VOC2007/Annotations/000003.xml: is not valid XML (no element found: line 1, column "
        f"{len(good) - len('</annotation>')}).\n"
        "  VOC2007/Annotations/000004.xml: the file is missing.\n"
        "  VOC2007/Annotations/000001.xml: object 1 has no name.\n"
        "  VOC2007/Annotations/000001.xml: object 1 has no bndbox/xmin.\n"
        "  VOC2007/Annotations/000002.xml: object 1 is of the unknown class 'unicorn'.\n"
        "  VOC2007/JPEGImages/000005.jpg: the image file is missing.\n"
        "  annotation 1 of image 6: bbox [29, 5, -19, 19] has a negative width or height.\n"
        "  annotation 1 of image 7: bbox [299, 5, 11, 19] lies outside its image of 60 x 40 (width "
        "x height).\n"
        "\n"
        "Nothing was started. A set is named FOLDER/SET, as VOC2007/trainval. The classes of VOC "
        "are aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, "
        "horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor. Set "
        "data.bad_boxes=drop to leave such boxes out."
    )


@pytest.mark.contract
def test_a_set_that_lists_no_images_or_other_things_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, "VOC2007/trainval", {"000005": annotation([CAT])})
    listing = tmp_path / "VOC2007/ImageSets/Main/trainval.txt"
    listing.write_text("000005\n\n000005\n000005 -1\n../000005\n")
    told = complaint(tmp_path)
    assert told == (
        "3 problems\n"
        "\n"
        "  VOC2007/ImageSets/Main/trainval.txt, line 3: 000005 is listed before.\n"
        "  VOC2007/ImageSets/Main/trainval.txt, line 4: '000005 -1' is not one image name.\n"
        "  VOC2007/ImageSets/Main/trainval.txt, line 5: '../000005' is not one image name.\n"
        "\n"
        "Nothing was started. A set is named FOLDER/SET, as VOC2007/trainval."
    )
    listing.write_text("\n")
    assert "VOC2007/ImageSets/Main/trainval.txt: lists no images.\n" in complaint(tmp_path)
    listing.write_bytes(b"\xff\xfe\x00")
    assert "VOC2007/ImageSets/Main/trainval.txt: is not text.\n" in complaint(tmp_path)
    listing.unlink()
    listing.mkdir()
    assert "trainval.txt: cannot be read: Is a directory.\n" in complaint(tmp_path)


@pytest.mark.contract
def test_bad_boxes_may_be_dropped(tmp_path: Path) -> None:
    objects: list[Object] = [("cat", (30, 6, 11, 25), 0), CAT]
    write_set(tmp_path, "VOC2007/trainval", {"000006": annotation(objects)})
    index = read_voc(tmp_path, ["VOC2007/trainval"], "drop").index
    assert index.records[6].boxes.tolist() == [[10, 5, 29, 24]]
    assert index.notes == ("Boxes left out: 1 of negative size (bad_boxes=drop).",)
