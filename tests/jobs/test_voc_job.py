"""Pascal VOC through all stages: teacher, cache, student, evaluation."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldkit.data.voc import CLASSES
from ldkit.jobs import build_cache, distill, evaluate, train_teacher
from ldkit.jobs.score_table import score_table
from ldkit.metrics.voc_eval import VocMetrics
from ldkit.recipe.load import load_recipe
from tests.data.voc_files import Object, annotation, write_set
from tests.jobs.tiny import finish, student_recipe, teacher_recipe

SETS = "data.train={kind: voc, sets: [VOC2007/trainval, VOC2012/trainval]}"
VOC = (SETS, "data.val={kind: voc, sets: [VOC2007/test]}", "views.short_side_px=40")


def draw_voc(root: Path) -> Path:
    """Write three sets of grey images with one white cat and one difficult dog in each."""
    sets = {
        "VOC2007/trainval": ["000001", "000003"],
        "VOC2012/trainval": ["2008_000002", "2008_000003"],
        "VOC2007/test": ["000002", "000004"],
    }
    for number, (name, images) in enumerate(sets.items()):
        objects: list[Object] = [
            ("cat", (3 + 5 * number, 4, 30 + 5 * number, 30), 0),
            ("dog", (41, 21, 60, 40), 1),
        ]
        write_set(root, name, dict.fromkeys(images, annotation(objects)))
        for image in images:
            pixels = np.full((40, 60, 3), 90, np.uint8)
            pixels[3:29, 2 + 5 * number : 29 + 5 * number] = 255
            folder = root / name.partition("/")[0] / "JPEGImages"
            assert cv2.imwrite(str(folder / f"{image}.jpg"), pixels)
    return root


@pytest.mark.story
def test_voc_goes_through_teacher_cache_student_and_evaluation(tmp_path: Path) -> None:
    data = draw_voc(tmp_path / "voc")
    few = (*VOC, "schedule.epochs=6", "eval.every_epochs=3")
    finish(train_teacher.run(teacher_recipe(data, *few), tmp_path / "teacher", device="cpu"))
    told = (tmp_path / "teacher" / "metrics.jsonl").read_text().splitlines()
    evaluated = [json.loads(line) for line in told if "ap75" in line]
    assert [set(line["figures"]) for line in evaluated] == [{"ap", "ap50", "ap75"}] * 2
    model, cache = tmp_path / "teacher" / "model.pt", tmp_path / "cache"
    student = student_recipe(data, model, cache, *VOC, "schedule.max_steps=2")
    finish(build_cache.run(student, device="cpu"))
    plan = json.loads((cache / "plan.json").read_text())
    place = plan["sources"]["data"]["facts"]["annotations"]
    assert place == f"{data}: VOC2007/trainval + VOC2012/trainval"
    finish(distill.run(student, tmp_path / "student", distill.Options(device="cpu")))
    goals = [evaluate.target(tmp_path / name, []) for name in ("teacher", "student")]
    assert goals[0].classes == CLASSES
    job = evaluate.run_all(goals, "val", device="cpu")
    scores = [each for each in finish(job) if isinstance(each, evaluate.Scores)]
    for each in scores:
        assert isinstance(each.metrics, VocMetrics)
        assert each.metrics.images == 2
        assert [found.ap is None for found in each.metrics.class_ap].count(False) == 1  # the cat
    table = score_table(goals, scores, "val")
    assert table.columns == ["", "AP", "AP50", "AP75"]
    assert [row[0] for row in table.rows] == ["teacher", "student", "student − teacher"]


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "passes", "milestone"),
    [("gfl_r18", 12, 9), ("ld_r18_r101", 12, 9), ("gfl_r101", 48, 36)],
)
def test_the_recipes_of_voc_count_passes_over_the_images(
    name: str, passes: int, milestone: int
) -> None:
    recipe = load_recipe(f"voc/{name}").recipe
    assert recipe.schedule.epochs == passes
    assert recipe.schedule.kind == "milestones"
    assert recipe.schedule.milestones == (milestone,)
    assert (recipe.optim.lr, recipe.train.batch_size) == (0.00375, 6)
    assert recipe.views.short_side_px == 800
