"""What is refused before anything starts: in words, and with nothing written."""

import json
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from ldkit.errors import (
    CacheCoverage,
    CacheIncomplete,
    CacheMismatch,
    CheckpointError,
    LdkitError,
    UsageError,
)
from ldkit.jobs import build_cache, distill, train_teacher
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import World
from tests.jobs.tiny import MIXED, draw_scenes, finish, student_recipe, teacher_recipe

Job = Generator[Any, None, Any]
Command = Callable[[Recipe, Path], Job]


def from_cache(recipe: Recipe, folder: Path) -> Job:
    return distill.run(recipe, folder, distill.Options(device="cpu"))


def online(recipe: Recipe, folder: Path) -> Job:
    options = distill.Options(source=distill.Source.ONLINE, device="cpu")
    return distill.run(recipe, folder, options)


def cache_logits(recipe: Recipe, folder: Path) -> Job:
    cache = recipe.cache and recipe.cache.model_copy(update={"path": str(folder)})
    return build_cache.run(recipe.model_copy(update={"cache": cache}), device="cpu")


def train(recipe: Recipe, folder: Path) -> Job:
    return train_teacher.run(recipe, folder, device="cpu")


def refusal(command: Command, recipe: Recipe, folder: Path, kind: type[LdkitError]) -> str:
    """Return the message with which a command refuses a recipe, and writes nothing."""
    with pytest.raises(kind) as caught:
        finish(command(recipe, folder / "new"))
    assert type(caught.value) is kind
    assert not (folder / "new").exists()
    assert caught.value.hint
    return str(caught.value)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven of the ten images of the world, in a data set of their own."""
    return draw_scenes(tmp_path_factory.mktemp("others"), MIXED)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory, others: Path) -> Path:
    """The same with another class in place of the third."""
    root = tmp_path_factory.mktemp("renamed")
    shutil.copytree(others, root, dirs_exist_ok=True)
    for path in (root / "annotations").iterdir():
        document = json.loads(path.read_text())
        document["categories"][2]["name"] = "ring"
        path.write_text(json.dumps(document))
    return root


@pytest.mark.contract
@pytest.mark.parametrize("command", [from_cache, online, cache_logits])
def test_a_teacher_of_other_classes_is_refused(
    world: World, renamed: Path, tmp_path: Path, command: Command
) -> None:
    recipe = student_recipe(renamed, world.teacher, world.cache)
    assert refusal(command, recipe, tmp_path, CheckpointError) == (
        f"{world.teacher}: was trained on other classes (3) than the data set has (3):\n"
        "  class 2: frame in the teacher, ring in the data\n"
        "Distillation compares classes one by one: train the teacher on this data set."
    )


@pytest.mark.contract
@pytest.mark.parametrize("command", [from_cache, online])
@pytest.mark.parametrize(
    ("key", "value", "name", "ours", "theirs"),
    [
        ("student.head.reg_max", "16", "num_bins", "9", "17"),
        ("student.fpn.levels", "[3, 4, 5]", "strides", "(8, 16, 32, 64)", "(8, 16, 32)"),
        ("student.head.bin_width", "1", "bin_width", "0.5", "1.0"),
        ("student.head.anchor_scale", "8", "anchor_scale", "3.0", "8.0"),
    ],
)
def test_a_teacher_that_does_not_fit_the_student_is_refused(
    world: World,
    tmp_path: Path,
    command: Command,
    key: str,
    value: str,
    name: str,
    ours: str,
    theirs: str,
) -> None:
    text = refusal(command, world.student(f"{key}={value}"), tmp_path, CheckpointError)
    line = f"  {name}: the teacher has {ours}, the student {theirs} (set {key}; "
    assert f"{world.teacher}: does not fit the student:\n{line}" in text


@pytest.mark.contract
def test_everything_that_does_not_fit_is_told_at_once(world: World, tmp_path: Path) -> None:
    recipe = world.student("student.head.reg_max=16", "student.head.bin_width=1")
    text = refusal(online, recipe, tmp_path, CheckpointError)
    assert "num_bins" in text
    assert "bin_width" in text


@pytest.mark.contract
def test_a_student_that_does_not_fit_a_cache_is_refused_without_the_teachers_file(
    world: World, tmp_path: Path
) -> None:
    recipe = world.student("student.head.reg_max=16", f"teacher.checkpoint={tmp_path / 'gone.pt'}")
    text = refusal(from_cache, recipe, tmp_path, CacheMismatch)
    assert f"{world.cache}: was made for other axes.\n" in text
    assert re.search(r"^    num_bins +9 +17$", text, re.MULTILINE)


@pytest.mark.contract
def test_a_cache_of_another_teacher_is_refused(world: World, tmp_path: Path) -> None:
    other = teacher_recipe(world.data, "schedule.max_steps=1", "seed=1", "name=other")
    finish(train(other, tmp_path / "other"))
    recipe = world.student(f"teacher.checkpoint={tmp_path / 'other' / 'model.pt'}")
    text = refusal(from_cache, recipe, tmp_path, CacheMismatch)
    assert text.startswith(f"{world.cache}: was made for another teacher.\n")
    assert re.search(r"^  weights +[0-9a-f]{12}   [0-9a-f]{12}$", text, re.MULTILINE)
    assert re.search(r"^    run +teacher +other$", text, re.MULTILINE)
    assert re.search(r"^  data +same$", text, re.MULTILINE)
    assert "Point `teacher.checkpoint` at the original teacher, or build a new cache" in text


@pytest.mark.contract
def test_a_cache_of_another_data_set_is_refused(world: World, others: Path, tmp_path: Path) -> None:
    recipe = student_recipe(others, world.teacher, world.cache)
    text = refusal(from_cache, recipe, tmp_path, CacheMismatch)
    assert text.startswith(f"{world.cache}: was made for another data set.\n")
    assert re.search(r"^  weights +same$", text, re.MULTILINE)
    assert re.search(r"^  data +[0-9a-f]{12} +[0-9a-f]{12}$", text, re.MULTILINE)
    assert re.search(r"^    images +10 +7$", text, re.MULTILINE)
    assert f"{others}/annotations/instances_train.json" in text


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("views.short_side_px=48", "short_side_px +64 +48"),
        ("views.long_side_max_px=96", "long_side_max_px +128 +96"),
        ("views.pad_multiple_px=64", "pad_multiple_px +32 +64"),
        ("views.short_side_px=[48, 64]", r"short_side_px +64 +\[48,64\]"),
    ],
)
def test_a_cache_of_another_view_policy_is_refused(
    world: World, tmp_path: Path, change: str, line: str
) -> None:
    text = refusal(from_cache, world.student(change), tmp_path, CacheMismatch)
    assert text.startswith(f"{world.cache}: was made for another view policy.\n")
    assert re.search(r"^  views +[0-9a-f]{12} +[0-9a-f]{12}$", text, re.MULTILINE)
    assert re.search(f"^    {line}$", text, re.MULTILINE)
    assert "Set `views` and `seed` as they were, or build a new cache" in text


@pytest.mark.contract
def test_a_cache_with_other_rows_is_refused(world: World, tmp_path: Path) -> None:
    recipe = world.student("objective.assign.topk=5")
    assert refusal(from_cache, recipe, tmp_path, CacheCoverage) == (
        f"{world.cache}: holds the main region with topk 9 (objective.assign.topk), this recipe "
        "wants 5.\n"
        "Set `objective.assign.topk=9`, or store it (`--set objective.assign.topk=5`): beside what "
        "is there (`ldkit cache-logits RECIPE --extend`), or in a new cache (`--out caches/NAME`)."
    )


@pytest.mark.contract
@pytest.mark.parametrize("flip", ["0.9", "0"])
def test_the_seed_and_the_share_of_mirrored_images_do_not_make_another_cache_of_one_size(
    world: World, tmp_path: Path, flip: str
) -> None:
    changes = ("seed=7", f"views.flip={flip}", "schedule.epochs=5", "schedule.max_steps=1")
    finish(from_cache(world.student(*changes), tmp_path / "run"))


@pytest.mark.contract
def test_a_cache_without_mirrored_views_is_refused_to_a_student_who_is_shown_some(
    world: World, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    finish(build_cache.run(world.student("views.flip=0", cache=cache), device="cpu"))
    text = refusal(from_cache, world.student(cache=cache), tmp_path, CacheCoverage)
    assert text.startswith(f"{cache}: holds no rows of main for 10 of 20 views that this recipe")


@pytest.mark.contract
def test_a_cache_that_is_not_sealed_is_refused_with_what_is_there(
    world: World, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(world.cache, cache)
    (cache / "manifest.json").unlink()
    text = refusal(from_cache, world.student(cache=cache), tmp_path, CacheIncomplete)
    assert text.startswith(f"{cache}: is not sealed: 1 of 1 shards are complete.\n")
    text = refusal(from_cache, world.student(cache=tmp_path / "no"), tmp_path, CacheIncomplete)
    assert "no: is no folder." in text


@pytest.mark.contract
def test_a_cache_folder_that_was_begun_for_another_teacher_is_refused(
    world: World, tmp_path: Path
) -> None:
    shutil.copytree(world.cache, tmp_path / "new")
    before = sorted((tmp_path / "new").rglob("*"))
    other = world.student("objective.assign.topk=5", cache=tmp_path / "new")
    with pytest.raises(CacheMismatch, match="was made for other rows"):
        finish(build_cache.run(other, device="cpu"))
    assert sorted((tmp_path / "new").rglob("*")) == before


@pytest.mark.contract
def test_a_recipe_of_the_wrong_kind_is_refused_with_the_command_it_is_for(
    world: World, tmp_path: Path
) -> None:
    teacher, student = teacher_recipe(world.data), world.student()
    text = refusal(from_cache, teacher, tmp_path, UsageError)
    assert text.startswith("teacher: trains a detector alone;")
    assert "`ldkit teacher train`" in text
    text = refusal(train, student, tmp_path, UsageError)
    assert text.startswith("student: trains a student;")
    assert "`ldkit distill`" in text
    text = refusal(cache_logits, teacher, tmp_path, UsageError)
    assert text.startswith("teacher: has no `teacher` section")


@pytest.mark.contract
def test_a_student_without_a_cache_section_can_only_learn_online(
    world: World, tmp_path: Path
) -> None:
    recipe = world.student("cache=null", "schedule.max_steps=1")
    for command in (from_cache, cache_logits):
        assert "has no `cache` section" in refusal(command, recipe, tmp_path, UsageError)
    finish(online(recipe, tmp_path / "run"))


@pytest.mark.contract
@pytest.mark.parametrize("name", ["cpux", "", "meta", "hpu", "cuda:x", "cuda:99"])
def test_an_unknown_device_is_refused(world: World, tmp_path: Path, name: str) -> None:
    def distilled(recipe: Recipe, folder: Path) -> Job:
        return distill.run(recipe, folder, distill.Options(device=name))

    def trained(recipe: Recipe, folder: Path) -> Job:
        return train_teacher.run(recipe, folder, device=name)

    for command, recipe in (
        (distilled, world.student()),
        (trained, teacher_recipe(world.data)),
    ):
        text = refusal(command, recipe, tmp_path, UsageError)
        assert text.startswith("--device: ")
        assert repr(name) in text
        assert text.endswith("\nTake auto, cpu, cuda or cuda:N.")


@pytest.mark.contract
@pytest.mark.parametrize("name", ["model.onnx", "model", "folder.pt"])
def test_a_model_file_that_cannot_be_written_is_refused_before_training(
    world: World, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.pt").mkdir()

    def trained(recipe: Recipe, folder: Path) -> Job:
        return train_teacher.run(recipe, folder, device="cpu", out=tmp_path / name)

    text = refusal(trained, teacher_recipe(world.data), tmp_path, UsageError)
    assert text.startswith(f"{tmp_path / name}: is ")
