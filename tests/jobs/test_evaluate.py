"""Scores and submissions: of the right model, on the right images, whole or not at all."""

import json
import os
import shutil
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldkit.errors import CheckpointError, DataError, RecipeError, UsageError
from ldkit.jobs import assemble, distill, evaluate
from ldkit.jobs.detect import detect
from ldkit.jobs.progress import Progress
from ldkit.metrics.results import CocoResult
from ldkit.models.checkpoint_file import ModelFile, read_model, write_model
from ldkit.models.gfl import Detector
from tests.jobs.conftest import World
from tests.jobs.tiny import (
    MIXED,
    draw_scenes,
    finish,
    snapshot,
    teacher_recipe,
    until,
    write_annotations,
)

CPU = torch.device("cpu")
MANY = ("eval.score_floor=0.01", "eval.max_detections=20")
"""Thresholds at which a teacher of half a minute finds something in every image."""


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    """A copy of the teacher's run folder."""
    return shutil.copytree(world.teacher.parent, tmp_path / "runs" / "teacher")


def found(job: Generator[Progress, None, list[CocoResult]]) -> list[CocoResult]:
    return finish(job)


def scores(goal: evaluate.Target, split: str = "val") -> evaluate.Scores:
    result = finish(evaluate.run(goal, split, device="cpu"))
    assert isinstance(result, evaluate.Scores)
    return result


@pytest.fixture(scope="module")
def teacher(world: World) -> Detector:
    return assemble.trained_detector(world.teacher)[0]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose validation images need many canvases."""
    return draw_scenes(tmp_path_factory.mktemp("mixed"), MIXED[:1], MIXED)


@pytest.mark.law
def test_detections_do_not_depend_on_the_batch_size(mixed: Path, teacher: Detector) -> None:
    answers = []
    for size in (1, 2, 7):
        recipe = teacher_recipe(mixed, *MANY, f"eval.batch_size={size}")
        assert recipe.data.val is not None
        index = assemble.index(recipe.data, recipe.data.val)
        answers.append(found(detect(teacher, index, recipe, CPU)))
    assert {result["image_id"] for result in answers[0]} == set(range(1, 8))
    for other in answers[1:]:
        assert len(other) == len(answers[0])
        for a, b in zip(answers[0], other, strict=True):
            assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
            assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)


@pytest.mark.contract
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_in_the_mode_it_came_in(mixed: Path, world: World, training: bool) -> None:
    model = assemble.trained_detector(world.teacher)[0].train(training)
    recipe = teacher_recipe(mixed, "eval.batch_size=1")
    assert recipe.data.val is not None
    index = assemble.index(recipe.data, recipe.data.val)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    job = detect(model, index, recipe, CPU)
    next(job)
    job.close()
    assert model.training is training
    found(detect(model, index, recipe, CPU))
    assert model.training is training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.contract
def test_a_run_folder_a_model_file_and_the_newest_run_mean_the_same_model(
    run: Path, tmp_path: Path
) -> None:
    by_folder, by_file = evaluate.target(run, []), evaluate.target(run / "model.pt", [])
    newest = evaluate.target(None, [], root=tmp_path / "runs")
    assert by_folder == newest
    assert by_folder.model == by_file.model == run / "model.pt"
    assert by_folder.results == run / "eval"
    assert by_file.results == run / "model"
    assert by_folder.name == "teacher"
    one, other = scores(by_folder), scores(by_file)
    assert one.metrics == other.metrics
    assert (one.file, other.file) == (run / "eval" / "val.json", run / "model" / "val.json")
    content = json.loads(one.file.read_text())
    assert content["split"] == "val"
    assert content["images"] == 3
    assert content["ap"] == one.metrics.ap


@pytest.mark.contract
def test_the_newest_run_is_the_one_that_finished_last(run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, age in (("a", 10), ("b", 5), ("c", 20)):
        shutil.copytree(run, runs / name)
        past = (runs / name / "model.pt").stat().st_mtime - age
        os.utime(runs / name / "model.pt", (past, past))
    os.utime(run / "model.pt", (0, 0))
    (runs / "unfinished").mkdir()
    assert evaluate.target(None, [], root=runs).model == runs / "b" / "model.pt"


@pytest.mark.contract
def test_overrides_change_how_a_model_is_evaluated(run: Path) -> None:
    assert evaluate.target(run, ["eval.nms_iou=0.5"]).recipe.eval.nms_iou == 0.5
    with pytest.raises(RecipeError, match=r"eval\.nms_oui"):
        evaluate.target(run, ["eval.nms_oui=0.5"])


@pytest.mark.contract
def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: holds no finished run"):
        evaluate.target(None, [], root=tmp_path / "nowhere")
    (run / "model.pt").unlink()
    with pytest.raises(UsageError, match=f"^{run}: is not a finished run: it holds no model.pt"):
        evaluate.target(run, [])
    with pytest.raises(CheckpointError, match="does not exist"):
        evaluate.target(tmp_path / "no.pt", [])


@pytest.mark.contract
def test_a_model_file_of_unknown_origin_is_refused(world: World, tmp_path: Path) -> None:
    file = read_model(world.teacher)
    write_model(tmp_path / "m.pt", ModelFile(file.weights, file.detector, file.classes, {}))
    with pytest.raises(CheckpointError, match="does not say which recipe it was trained by"):
        evaluate.target(tmp_path / "m.pt", [])


@pytest.mark.contract
def test_images_of_other_classes_are_refused(run: Path, mixed: Path, tmp_path: Path) -> None:
    data = shutil.copytree(mixed, tmp_path / "data")
    path = data / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("frame", "ring"))
    goal = evaluate.target(run, [f"data.root={data}"])
    with pytest.raises(DataError) as caught:
        scores(goal)
    assert str(caught.value) == (
        f"data: has 3 classes (bar, disc, ring), but the model {run}/model.pt was trained on 3 "
        "(bar, disc, frame).\n"
        "Evaluate on a data set with the same classes in the same order."
    )
    assert not goal.results.exists()


@pytest.mark.contract
def test_a_split_that_is_not_there_is_refused_with_the_keys_that_name_it(run: Path) -> None:
    with pytest.raises(UsageError, match="there is no split 'tset'"):
        scores(evaluate.target(run, []), "tset")
    with pytest.raises(UsageError) as caught:
        scores(evaluate.target(run, []), "test-dev")
    assert str(caught.value) == (
        "--split test-dev: the recipe has no data.test_dev section, so there are no such images.\n"
        "Give both keys: `--set data.test_dev.images=FOLDER "
        "--set data.test_dev.annotations=FILE.json`."
    )
    assert scores(evaluate.target(run, []), "train").file.name == "train.json"


@pytest.mark.contract
def test_an_evaluation_that_is_cut_short_leaves_no_half_file(run: Path) -> None:
    goal = evaluate.target(run, ["eval.batch_size=1"])
    scores(goal)
    whole = snapshot(run)
    job = evaluate.run(goal, "val", device="cpu")
    until(job, lambda message: isinstance(message, Progress) and message.done == 2)
    job.close()
    assert snapshot(run) == whole


@pytest.mark.story
def test_images_without_boxes_become_one_rightly_named_zip(
    run: Path, mixed: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(mixed, tmp_path / "data")
    document = json.loads((data / "annotations" / "instances_val.json").read_text())
    write_annotations(data, "test", document["images"], None)
    keys = ("images=val", "annotations=annotations/instances_test.json")
    overrides = [f"data.root={data}", *MANY, *(f"data.test_dev.{key}" for key in keys)]
    goal = evaluate.target(run, [*overrides, "eval.max_detections=100", "eval.score_floor=0.001"])
    result = finish(evaluate.run(goal, "test-dev", device="cpu"))
    assert isinstance(result, evaluate.Submitted)
    stem = "detections_test-dev2017_teacher_results"
    assert result.submission.path == run / "eval" / f"{stem}.zip"
    with zipfile.ZipFile(result.submission.path) as archive:
        assert archive.namelist() == [f"{stem}.json"]
        rows: list[dict[str, Any]] = json.loads(archive.read(f"{stem}.json"))
    assert len(rows) == result.submission.count > 7
    assert {row["image_id"] for row in rows} == set(range(1, 8))
    assert {row["category_id"] for row in rows} <= {1, 2, 3}
    sizes = {row["id"]: (row["width"], row["height"]) for row in document["images"]}
    for row in rows:
        x, y, width, height = row["bbox"]
        assert x >= -0.1
        assert x + width <= sizes[row["image_id"]][0] + 0.1
        assert y >= -0.1
        assert y + height <= sizes[row["image_id"]][1] + 0.1


@pytest.mark.story
def test_a_student_is_evaluated_like_a_teacher(world: World, tmp_path: Path) -> None:
    run = tmp_path / "student"
    finish(distill.run(world.student("schedule.max_steps=1"), run, distill.Options(device="cpu")))
    assert scores(evaluate.target(run, [])).metrics.images == 3


@pytest.mark.contract
def test_the_columns_are_percentages_and_a_dash_where_there_is_nothing_to_count(run: Path) -> None:
    metrics = scores(evaluate.target(run, [])).metrics
    texts = dict(zip(evaluate.COLUMNS, evaluate.columns(metrics), strict=True))
    assert texts["APl"] == "-"
    assert metrics.ap is not None
    assert texts["AP"] == f"{100 * metrics.ap:.1f}"
