"""Images, classes and models that do not fit each other are refused before anything starts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ldkit.data.coco import CocoIndex
from ldkit.errors import CheckpointError, DataError, UsageError
from ldkit.jobs import distill, evaluate, train_teacher
from ldkit.jobs.benchmark import benchmark, benchmarks, check_classes, split_section
from ldkit.metrics.coco_eval import CocoMetrics
from ldkit.recipe.data import VocSplit
from tests.data.voc_files import annotation, write_set
from tests.jobs.conftest import World
from tests.jobs.tiny import MIXED, draw_scenes, finish, teacher_recipe, write_annotations


@pytest.fixture
def goal(world: World) -> evaluate.Target:
    return evaluate.target(world.teacher, [])


def index_of(tmp_path: Path, classes: list[str]) -> CocoIndex:
    data = draw_scenes(tmp_path / "data", MIXED[:1], MIXED[:1])
    path = data / "annotations" / "instances_val.json"
    images = json.loads(path.read_text())["images"]
    write_annotations(data, "val", images, [], classes)
    return CocoIndex.read(data / "val", path)


def said(count: int, names: str, trained: int, others: str) -> str:
    return f"has {count} classes ({names}), but the model m.pt was trained on {trained} ({others})"


@pytest.mark.contract
@pytest.mark.parametrize(
    ("data", "model", "text"),
    [
        (
            ["a", "b"],
            ["a", "c"],
            said(2, "a, b", 2, "a, c"),
        ),
        (
            ["b", "a"],
            ["a", "b"],
            said(2, "b, a", 2, "a, b"),
        ),
        (
            [f"c{n}" for n in range(80)],
            [f"c{n}" if n != 57 else "couch" for n in range(80)],
            said(80, "..., c56, c57, c58, c59, ...", 80, "..., c56, couch, c58, c59, ..."),
        ),
        (
            [f"c{n}" for n in range(80)],
            [f"c{n}" for n in range(20)],
            said(80, "..., c19, c20, c21, c22, ...", 20, "..., c19"),
        ),
    ],
)
def test_classes_that_differ_are_shown_where_they_begin_to(
    tmp_path: Path, data: list[str], model: list[str], text: str
) -> None:
    index = index_of(tmp_path, data)
    check_classes(index, tuple(data), Path("m.pt"))
    with pytest.raises(DataError) as caught:
        check_classes(index, tuple(model), Path("m.pt"))
    assert str(caught.value) == (
        f"data: {text}.\nEvaluate on a data set with the same classes in the same order."
    )


@pytest.mark.contract
def test_a_student_for_more_classes_than_its_teacher_has_is_refused(
    world: World, tmp_path: Path
) -> None:
    data = shutil.copytree(world.data, tmp_path / "data")
    path = data / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["categories"] += [{"id": 9, "name": "ring"}, {"id": 7, "name": "star"}]
    path.write_text(json.dumps(document))
    recipe = world.student(f"data.root={data}")
    options = distill.Options(source=distill.Source.ONLINE, device="cpu")
    with pytest.raises(CheckpointError) as caught:
        finish(distill.run(recipe, tmp_path / "run", options))
    assert "3: (none) in the teacher, ring in the data" in str(caught.value)
    assert "4: (none) in the teacher, star in the data" in str(caught.value)
    assert str(world.teacher) in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.contract
def test_validation_images_of_other_classes_are_refused_before_training(
    world: World, tmp_path: Path
) -> None:
    data = shutil.copytree(world.data, tmp_path / "data")
    path = data / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("frame", "ring"))
    recipe = teacher_recipe(data, "eval.every_epochs=1")
    with pytest.raises(DataError, match=r"has 3 classes \(bar, disc, ring\), but the model"):
        finish(train_teacher.run(recipe, tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.contract
def test_models_on_different_images_are_not_compared(goal: evaluate.Target, tmp_path: Path) -> None:
    other_data = draw_scenes(tmp_path / "other", MIXED[:1], MIXED)
    other = evaluate.target(goal.model, [f"data.root={other_data}"])
    with pytest.raises(UsageError) as caught:
        benchmarks([goal, goal, other], "val", None)
    assert str(caught.value) == (
        f"{other.model}: is evaluated on other images or boxes, so that the figures cannot be "
        "compared:\n"
        f"  {goal.model}: {goal.recipe.data.root}/annotations/instances_val.json\n"
        f"  {other.model}: {other_data}/annotations/instances_val.json\n"
        "Name the same data for all by `--set data...`, or evaluate one by one."
    )
    copy = shutil.copytree(goal.recipe.data.root, tmp_path / "moved")
    moved = evaluate.target(goal.model, [f"data.root={copy}"])
    one, same = benchmarks([goal, moved], "val", None)
    assert one.index.fingerprint == same.index.fingerprint
    one, same = benchmarks([goal, goal], "val", None)
    assert one is same


@pytest.mark.contract
def test_an_image_list_that_names_absent_files_is_refused(
    goal: evaluate.Target, tmp_path: Path
) -> None:
    data = draw_scenes(tmp_path / "data", MIXED[:1], MIXED)
    images = json.loads((data / "annotations" / "instances_val.json").read_text())["images"]
    write_annotations(data, "test", images, None)
    (data / "val" / "2.png").unlink()
    (data / "val" / "5.png").unlink()
    test = "data.test_dev={images: val, annotations: annotations/instances_test.json}"
    with pytest.raises(DataError) as caught:
        finish(evaluate.run(evaluate.target(goal.model, [f"data.root={data}", test]), "test-dev"))
    assert str(caught.value) == (
        f"{data}/annotations/instances_test.json: 2 problems\n"
        "\n"
        f"  image 2 ('2.png'): the file is missing in {data}/val.\n"
        f"  image 5 ('5.png'): the file is missing in {data}/val.\n"
        "\n"
        "Nothing was started. Is this the image folder that belongs to the annotation file?"
    )


@pytest.mark.contract
def test_the_evaluator_may_be_chosen_and_is_named_in_the_result(goal: evaluate.Target) -> None:
    found = {}
    for name in ("pycocotools", "faster-coco-eval"):
        result = finish(evaluate.run(goal, "val", device="cpu", evaluator=name))
        assert isinstance(result, evaluate.Scores)
        assert isinstance(result.metrics, CocoMetrics)
        assert json.loads(result.file.read_text())["evaluator"] == result.metrics.evaluator == name
        found[name] = replace(result.metrics, evaluator="pycocotools")
    assert found["pycocotools"].figures() == pytest.approx(found["faster-coco-eval"].figures())
    with pytest.raises(UsageError, match="there is no evaluator 'coco'"):
        finish(evaluate.run(goal, "val", device="cpu", evaluator="coco"))


@pytest.mark.contract
def test_voc_has_no_choice_of_evaluators(tmp_path: Path, goal: evaluate.Target) -> None:
    write_set(tmp_path, "VOC2007/test", {"000001": annotation([("cat", (1, 1, 9, 9), 0)])})
    data = goal.recipe.data.model_copy(update={"root": str(tmp_path)})
    section = VocSplit(kind="voc", sets=("VOC2007/test",))
    assert list(benchmark(data, "val", section).index.records) == [1]
    with pytest.raises(UsageError) as caught:
        benchmark(data, "val", section, "pycocotools")
    assert str(caught.value) == (
        "--evaluator: chooses between the evaluators of COCO, but data.val is of Pascal VOC.\n"
        "Leave it out: VOC has one metric."
    )


@pytest.mark.contract
def test_splits_are_named_as_on_the_command_line(world: World) -> None:
    recipe = teacher_recipe(world.data)
    assert split_section(recipe, "train") == recipe.data.train
    assert split_section(recipe, "val") == recipe.data.val
    with pytest.raises(UsageError, match="there is no split 'test'"):
        split_section(recipe, "test")
    without = teacher_recipe(world.data, "data.val=null")
    with pytest.raises(UsageError, match=r"the recipe has no data\.val section"):
        split_section(without, "val")
