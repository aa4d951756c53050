"""What a student is made of, what it never does, and which caches and teachers it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ldkit.cache.reader import CacheReader
from ldkit.jobs import distill
from ldkit.models.checkpoint_file import read_model
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, steps, weights

ONLINE = distill.Options(source=distill.Source.ONLINE, device="cpu")
CACHED = distill.Options(source=distill.Source.CACHE, device="cpu")


def refuse(*_: Any, **__: Any) -> Any:
    pytest.fail("this must not be called")


def shapes(path: Path) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in read_model(path).weights.items()}


@pytest.fixture(scope="module")
def student(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of two epochs, from the cache."""
    run = tmp_path_factory.mktemp("student") / "run"
    finish(distill.run(world.student(), run, CACHED))
    return run


@pytest.mark.law
def test_a_student_on_a_cache_assigns_nothing_and_never_opens_its_teacher(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: Path
) -> None:
    monkeypatch.setattr("ldkit.jobs.train_teacher.assign_atss", refuse)
    for name in ("jobs.teacher_rows", "jobs.size_estimate", "ops.vlr", "ops.regions"):
        monkeypatch.setattr(f"ldkit.{name}.atss", refuse)
    monkeypatch.setattr("ldkit.jobs.distill.load_teacher", refuse)
    monkeypatch.setattr("ldkit.jobs.assemble.trained_detector", refuse)
    finish(distill.run(world.student(), tmp_path / "run", CACHED))
    assert steps(tmp_path / "run") == steps(student)


@pytest.mark.law
def test_a_cache_stands_for_a_teacher_whose_file_is_gone(
    world: World, tmp_path: Path, student: Path
) -> None:
    gone = world.student(f"teacher.checkpoint={tmp_path / 'gone.pt'}")
    finish(distill.run(gone, tmp_path / "run", CACHED))
    assert steps(tmp_path / "run") == steps(student)


@pytest.mark.contract
def test_a_students_file_holds_the_student_alone(
    world: World, tmp_path: Path, student: Path
) -> None:
    plain = world.student("objective.localization.main=null")
    finish(distill.run(plain, tmp_path / "plain", CACHED))
    own, alone = student / "model.pt", tmp_path / "plain" / "model.pt"
    assert shapes(own) == shapes(alone)
    assert abs(own.stat().st_size - alone.stat().st_size) < 1000
    content = own.read_bytes()
    for name, tensor in read_model(world.teacher).weights.items():
        if tensor.ndim > 1:
            assert tensor.contiguous().numpy().tobytes() not in content, name


@pytest.mark.contract
def test_a_students_file_names_its_teacher_and_its_cache(world: World, student: Path) -> None:
    origin = read_model(student / "model.pt").origin
    assert origin["teacher"] == read_model(world.teacher).fingerprint
    assert origin["cache"] == CacheReader.open_(world.cache).fingerprint
    assert origin["steps"] == 8


@pytest.mark.contract
def test_an_online_students_file_names_its_teacher_alone(world: World, tmp_path: Path) -> None:
    finish(distill.run(world.student("schedule.max_steps=1"), tmp_path / "run", ONLINE))
    origin = read_model(tmp_path / "run" / "model.pt").origin
    assert origin["teacher"] == read_model(world.teacher).fingerprint
    assert "cache" not in origin
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.law
@pytest.mark.parametrize("normalizer", ["paper", "weights"])
def test_a_student_without_distillation_is_the_same_student_to_begin_with(
    world: World, tmp_path: Path, normalizer: str
) -> None:
    chosen = f"objective.localization.main.normalizer={normalizer}"
    finish(distill.run(world.student(chosen), tmp_path / "distilled", CACHED))
    off = world.student("objective.localization.main=null", "cache=null")
    finish(distill.run(off, tmp_path / "plain", CACHED))
    distilled, plain = steps(tmp_path / "distilled"), steps(tmp_path / "plain")
    assert len(distilled) == len(plain)
    first = dict(distilled[0][1])
    assert first.pop("ld_main") > 1e-3
    assert first == plain[0][1]
    assert distilled[-1][1]["cls"] != plain[-1][1]["cls"]
    assert weights(tmp_path / "distilled") != weights(tmp_path / "plain")


@pytest.mark.law
def test_the_two_normalizers_weigh_the_same_divergence_differently(
    world: World, tmp_path: Path
) -> None:
    first = {}
    for kind in ("paper", "weights"):
        chosen = f"objective.localization.main.normalizer={kind}"
        recipe = world.student(chosen, "schedule.max_steps=1")
        finish(distill.run(recipe, tmp_path / kind, CACHED))
        first[kind] = steps(tmp_path / kind)[0][1]
    paper, by_weights = first["paper"].pop("ld_main"), first["weights"].pop("ld_main")
    assert first["paper"] == first["weights"]
    assert paper != pytest.approx(by_weights, rel=0.1)
