"""What checkpoints say of themselves, in the forms of 2.x and 3.x."""

from typing import Any

import pytest

from ldkit.errors import CheckpointError
from ldkit.models.inert_pickle import Record
from ldkit.models.mmdet_meta import Meta, named_classes, read_meta
from tests.models.mmdet_files import CLASSES, CONFIG, newer_file, older_file


def meta(content: dict[str, Any], num_classes: int = 3) -> Meta:
    return read_meta(content, num_classes, "x.pth")


def refusal(config: str) -> str:
    content = older_file({})
    content["meta"]["config"] = config
    with pytest.raises(CheckpointError) as caught:
        meta(content)
    return caught.value.message


@pytest.mark.contract
def test_both_forms_name_their_classes_and_versions() -> None:
    older, newer = meta(older_file({})), meta(newer_file({}))
    assert (older.form, older.classes) == ("2.x", CLASSES)
    assert older.facts["mmdet_version"] == "2.10.0+fa1c3a7"
    assert older.facts["epoch"] == 24
    assert "config" not in older.facts
    assert "seed" not in older.facts
    assert (newer.form, newer.classes) == ("3.x", CLASSES)
    assert newer.facts == {
        "mmengine_version": "0.10.7",
        "experiment_name": "gfl_r18",
        "epoch": 12,
        "iter": 100,
    }


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content", "form"),
    [
        ({"state_dict": {}}, "bare"),
        ({"meta": {}, "state_dict": {}}, "bare"),
        ({"meta": Record("mmcv.Config", ())}, "bare"),
        ({"meta": {"epoch": 3}, "message_hub": {}}, "3.x"),
        ({"meta": {"dataset_meta": Record("x.Meta", ()), "mmengine_version": "1"}}, "3.x"),
    ],
)
def test_a_file_that_says_little_is_taken_as_it_is(content: dict[str, Any], form: str) -> None:
    assert meta(content).form == form
    assert meta(content).classes == ()


@pytest.mark.contract
@pytest.mark.parametrize(
    ("classes", "count", "found"),
    [
        (["a", "b"], 2, ("a", "b")),
        ("ship", 1, ("ship",)),
        (("a", "b"), 5, ()),
        (None, 2, ()),
        ((1, 2), 2, ()),
        (Record("x.Classes", ()), 2, ()),
    ],
)
def test_classes_are_taken_where_they_fit_the_head(
    classes: object, count: int, found: tuple[str, ...]
) -> None:
    assert meta(older_file({}, classes), count).classes == found
    assert meta(newer_file({}, classes), count).classes == found
    assert meta({"meta": {"dataset_meta": {"CLASSES": classes}}}, count).classes == found


@pytest.mark.contract
def test_a_row_more_than_classes_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        meta(older_file({}), 4)
    assert caught.value.message == (
        "has 4 rows of classes for its 3 classes: a head without a sigmoid, as GFLv2 has it, but "
        "without the quality of GFLv2."
    )


@pytest.mark.contract
def test_classes_are_named_whatever_their_number() -> None:
    assert named_classes(older_file({})) == named_classes(newer_file({})) == CLASSES
    assert named_classes(older_file({}, "ship")) == ("ship",)
    assert named_classes({"state_dict": {}}) == named_classes({"meta": None}) == ()


@pytest.mark.contract
def test_a_quality_without_the_mean_is_refused() -> None:
    published = CONFIG.replace("GFLHead',", "GFocalHead', reg_topk=4, add_mean=True,")
    content = older_file({})
    content["meta"]["config"] = published
    assert meta(content).classes == CLASSES
    assert refusal(published.replace("add_mean=True", "add_mean=False")) == (
        "has a GFLv2 head that does not read the mean of the largest probabilities "
        "(add_mean=False); ldkit's does."
    )


@pytest.mark.contract
def test_images_prepared_in_another_way_are_refused() -> None:
    caffe = CONFIG.replace("style='pytorch'", "style='caffe'")
    caffe = caffe.replace("[123.675, 116.28, 103.53]", "[103.53, 116.28, 123.675]")
    caffe = caffe.replace("[58.395, 57.12, 57.375]", "[1.0, 1.0, 1.0]")
    caffe = caffe.replace("to_rgb=True", "to_rgb=False")
    assert refusal(caffe) == (
        "was trained for other images or another ResNet than ldkit's: "
        "mean (103.53, 116.28, 123.675), not (123.675, 116.28, 103.53); "
        "std (1.0, 1.0, 1.0), not (58.395, 57.12, 57.375); BGR, not RGB; "
        "a backbone in caffe style, not in pytorch style."
    )
    assert "BGR" in refusal(CONFIG.replace("to_rgb=True", "bgr_to_rgb=False"))
