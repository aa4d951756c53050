from dataclasses import replace
from pathlib import Path

import pytest

from ldkit.jobs.evaluate import Scores, Target
from ldkit.jobs.score_table import as_dicts, class_table, difference, score_table, signed
from ldkit.metrics.coco_eval import CocoMetrics
from ldkit.metrics.results import ClassAp
from ldkit.metrics.voc_eval import VocMetrics
from ldkit.recipe.load import load_recipe

CLASSES = ("person", "bicycle", "car")


def target(name: str, recipe: str = "coco/gfl_r18", *overrides: str, run: str = "") -> Target:
    folder = Path("runs") / (run or name)
    loaded = load_recipe(recipe, overrides).recipe
    return Target(name, folder / "model.pt", CLASSES, loaded, folder / "eval")


def coco(ap: float, *class_ap: float | None, large: float | None = 0.5) -> Scores:
    figures = (ap, 0.531, 0.382, 0.2, 0.4, large, 0.3, 0.5, 0.553, 0.3, 0.5, 0.7)
    classes = tuple(map(ClassAp, range(3), CLASSES, class_ap))
    return Scores(CocoMetrics(*figures, (ap,) * 10, classes, 5000, "pycocotools"), Path("val.json"))


@pytest.mark.contract
def test_one_model_is_one_row_and_its_distance_to_the_expectation() -> None:
    table = score_table([target("gfl_r18")], [coco(0.3596)], "val")
    assert table.title == "AP in percent on val, 5,000 images, by pycocotools"
    assert table.columns == ["", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert table.rows == [
        ["gfl_r18", "36.0", "53.1", "38.2", "20.0", "40.0", "50.0", "55.3"],
        ["gfl_r18 − expected", "+0.2", "0.0", "0.0", "-", "-", "-", "-"],
    ]


@pytest.mark.contract
def test_several_models_are_compared_with_the_first() -> None:
    goals = [target("gfl_r18"), target("mine", "own/teacher"), target("ld", "coco/ld_r18_r101")]
    scores = [coco(0.358), coco(0.36), coco(0.3644, large=None)]
    rows = {row[0]: row[1:] for row in score_table(goals, scores, "val").rows}
    assert list(rows) == [
        "gfl_r18",
        "mine",
        "ld",
        "mine − gfl_r18",
        "ld − gfl_r18",
        "gfl_r18 − expected",
        "ld − expected",
    ]
    assert rows["mine − gfl_r18"] == ["+0.2", *["0.0"] * 6]
    assert rows["ld − gfl_r18"] == ["+0.6", "0.0", "0.0", "0.0", "0.0", "-", "0.0"]
    assert rows["ld"][5] == "-"
    assert rows["ld − expected"] == ["-0.1", "+0.2", "-1.1", "-", "-", "-", "-"]


@pytest.mark.contract
def test_what_is_expected_on_val_is_not_held_against_other_images() -> None:
    assert len(score_table([target("gfl_r18")], [coco(0.9)], "train").rows) == 1
    assert as_dicts([target("gfl_r18")], [coco(0.9)], "train")[0]["from_expected"] is None
    others = coco(0.9)
    others = replace(others, metrics=replace(others.metrics, images=8))
    assert len(score_table([target("gfl_r18")], [others], "val").rows) == 1


@pytest.mark.contract
def test_models_of_equal_name_are_told_apart_by_their_files() -> None:
    goals = [target("a", run="seed0"), target("a", run="seed1"), target("b")]
    names = [row[0] for row in score_table(goals, [coco(0.3)] * 3, "train").rows]
    assert names[:3] == ["runs/seed0/model.pt", "runs/seed1/model.pt", "b"]


@pytest.mark.contract
def test_the_metric_of_voc_has_three_columns() -> None:
    metrics = VocMetrics(0.53, 0.759, 0.576, (0.5,) * 10, (), 4952)
    table = score_table([target("r18", "own/teacher")], [Scores(metrics, Path("v.json"))], "val")
    assert table.title == "AP in percent on val, 4,952 images, by VOC07, 11 points"
    assert (table.columns, table.rows) == (
        ["", "AP", "AP50", "AP75"],
        [["r18", "53.0", "75.9", "57.6"]],
    )


@pytest.mark.contract
def test_classes_stand_in_the_order_of_the_data_set_several_models_side_by_side() -> None:
    scores = [coco(0.3, 0.5, None, 0.125), coco(0.3, 0.25, None, 0.0)]
    table = class_table([target("a"), target("b")], scores)
    assert table.columns == ["", "a", "b"]
    assert table.rows == [["person", "50.0", "25.0"], ["bicycle", "-", "-"], ["car", "12.5", "0.0"]]


@pytest.mark.contract
def test_machines_get_fractions_before_rounding() -> None:
    goals = [target("gfl_r18"), target("ld", "coco/ld_r18_r101")]
    first, second = as_dicts(goals, [coco(0.358), coco(0.36)], "val")
    assert (first["model"], first["split"], first["ap"]) == ("runs/gfl_r18/model.pt", "val", 0.358)
    assert first["difference"] is None
    assert second["difference"]["ap"] == pytest.approx(0.002)
    assert second["from_expected"] == pytest.approx({"ap": -0.005, "ap50": 0.002, "ap75": -0.011})


@pytest.mark.law
def test_a_difference_needs_both_sides_and_a_rounded_zero_has_no_sign() -> None:
    assert difference({"ap": 0.2, "ap50": None, "ap75": 0.1}, {"ap": 0.0, "ap50": 0.1}) == {
        "ap": 0.2,
        "ap50": None,
        "ap75": None,
    }
    assert [signed(gap) for gap in (None, 0.0, -0.0004, 0.0004, 0.00051, -0.1)] == [
        "-",
        "0.0",
        "0.0",
        "0.0",
        "+0.1",
        "-10.0",
    ]
