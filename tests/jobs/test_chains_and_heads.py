"""A student may be a teacher, of its own kind or of a smaller one; heads may differ."""

from pathlib import Path

import pytest

from ldkit.jobs import build_cache, distill, evaluate, train_teacher
from ldkit.models.checkpoint_file import read_model
from tests.jobs.conftest import World
from tests.jobs.tiny import (
    EVERY_TERM,
    EXACT,
    finish,
    steps,
    student_recipe,
    teacher_recipe,
    weights,
)

ONLINE = distill.Options(source=distill.Source.ONLINE, device="cpu")
CACHED = distill.Options(source=distill.Source.CACHE, device="cpu")
GFLV2 = "head.kind=gflv2"
SMALL = ("student.backbone.width=4",)


@pytest.mark.story
def test_a_chain_goes_from_a_teacher_over_an_assistant_to_a_student(
    world: World, tmp_path: Path
) -> None:
    """Each link is an ordinary cache and an ordinary distillation of the file before it."""
    finish(distill.run(world.student(), tmp_path / "assistant", CACHED))
    assistant = tmp_path / "assistant" / "model.pt"
    last = student_recipe(world.data, assistant, tmp_path / "cache", "name=last", *SMALL)
    finish(build_cache.run(last, device="cpu"))
    finish(distill.run(last, tmp_path / "last", CACHED))
    origin = read_model(tmp_path / "last" / "model.pt").origin
    assert origin["teacher"] == read_model(assistant).fingerprint
    assert all(losses["ld_main"] > 1e-3 for _, losses in steps(tmp_path / "last"))


@pytest.mark.story
def test_a_student_learns_from_a_teacher_of_its_own_kind(world: World, tmp_path: Path) -> None:
    """Self-distillation: the same sections, other weights."""
    recipe = world.student("seed=3", "schedule.max_steps=2")
    assert recipe.student is not None
    assert recipe.student.model_dump(mode="json") == read_model(world.teacher).detector
    finish(distill.run(recipe, tmp_path / "run", CACHED))
    assert steps(tmp_path / "run")[0][1]["ld_main"] > 1e-3


@pytest.mark.law
@pytest.mark.parametrize("student_head", ["gfl", "gflv2"])
def test_a_gflv2_teacher_says_the_same_from_a_cache(
    world: World, tmp_path: Path, student_head: str
) -> None:
    teacher = teacher_recipe(world.data, f"model.{GFLV2}", "schedule.max_steps=8")
    finish(train_teacher.run(teacher, tmp_path / "teacher", device="cpu"))
    model = tmp_path / "teacher" / "model.pt"
    recipe = student_recipe(
        world.data,
        model,
        tmp_path / "cache",
        *EVERY_TERM,
        "objective.score.floor=0.005",  # after 8 steps no class scores more
        f"student.head.kind={student_head}",
        "cache.batch_size=1",
    )
    finish(build_cache.run(recipe, device="cpu"))
    finish(distill.run(recipe, tmp_path / "online", ONLINE))
    finish(distill.run(recipe, tmp_path / "cached", CACHED))
    assert steps(tmp_path / "online") == steps(tmp_path / "cached")
    assert weights(tmp_path / "online") == weights(tmp_path / "cached")
    names = {name for _, name, _ in recipe.objective.distillation_terms()}
    for _, losses in steps(tmp_path / "cached"):
        assert all(abs(losses[name]) > 1e-6 for name in names)
    finish(evaluate.run(evaluate.target(tmp_path / "cached", []), "val", device="cpu"))


@pytest.mark.law
def test_a_gflv2_student_hears_a_gfl_teacher(world: World, tmp_path: Path) -> None:
    recipe = world.student(*EXACT, f"student.{GFLV2}", "schedule.max_steps=3")
    finish(distill.run(recipe, tmp_path / "run", CACHED))
    own = read_model(tmp_path / "run" / "model.pt")
    assert own.detector["head"]["kind"] == "gflv2"
    assert any("quality" in name for name in own.weights)
    assert steps(tmp_path / "run")[0][1]["ld_main"] > 1e-3
