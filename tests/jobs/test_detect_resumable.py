"""An evaluation that is interrupted goes on where it stopped, and ends in the same bytes."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ldkit.jobs import detect_resumable, evaluate
from ldkit.jobs.progress import Note, Progress
from ldkit.models.checkpoint_file import ModelFile, read_model, write_model
from tests.jobs.conftest import World
from tests.jobs.tiny import MIXED, draw_scenes, finish, told, until

STEM = "detections_test-dev2017_teacher_results"
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from ldkit.jobs import detect_resumable, evaluate
from ldkit.jobs.progress import Progress
torch.set_num_threads(1)
detect_resumable.IMAGES_PER_CHUNK = 2
goal = evaluate.target(Path(sys.argv[1]), sys.argv[2:])
for message in evaluate.run(goal, "test-dev", device="cpu"):
    if isinstance(message, Progress) and message.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_resumable, "IMAGES_PER_CHUNK", 2)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven validation images, six of them on canvases of their own."""
    return draw_scenes(tmp_path_factory.mktemp("mixed"), MIXED[:1], MIXED)


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    return shutil.copytree(world.teacher.parent, tmp_path / "runs" / "teacher")


@pytest.fixture
def settings(mixed: Path) -> list[str]:
    test = "data.test_dev={images: val, annotations: annotations/instances_val.json}"
    return [f"data.root={mixed}", test, "eval.score_floor=0.001", "eval.batch_size=1"]


def cut_at(job: Generator[Any, None, Any], images: int) -> None:
    until(job, lambda message: isinstance(message, Progress) and message.done == images)
    job.close()


def notes(messages: list[Any]) -> list[str]:
    return [message.text for message in messages if isinstance(message, Note)]


def zip_bytes(run: Path) -> bytes:
    return (run / "eval" / f"{STEM}.zip").read_bytes()


@pytest.fixture
def undisturbed(run: Path, settings: list[str], tmp_path: Path) -> bytes:
    other = shutil.copytree(run, tmp_path / "undisturbed")
    finish(evaluate.run(evaluate.target(other, settings), "test-dev", device="cpu"))
    return zip_bytes(other)


@pytest.mark.law
@pytest.mark.parametrize("images", [1, 2, 3, 6, 7])
def test_an_evaluation_cut_short_goes_on_and_ends_in_the_same_bytes(
    run: Path, settings: list[str], undisturbed: bytes, images: int
) -> None:
    goal = evaluate.target(run, settings)
    cut_at(evaluate.run(goal, "test-dev", device="cpu"), images)
    partial = run / "eval" / "test-dev.partial"
    whole_chunks = (images - 1) // 2  # the one in flight is lost
    assert len(list(partial.glob("*.json"))) == whole_chunks
    messages = told(evaluate.run(goal, "test-dev", device="cpu"))
    first = next(message.done for message in messages if isinstance(message, Progress))
    assert first == 2 * whole_chunks + 1
    expected = f"{2 * whole_chunks} of 7 images were evaluated before ({partial}); going on"
    assert [note.startswith(expected) for note in notes(messages)] == [True] * bool(whole_chunks)
    assert zip_bytes(run) == undisturbed
    assert not partial.exists()


@pytest.mark.law
def test_a_killed_evaluation_goes_on_and_ends_in_the_same_bytes(
    run: Path, settings: list[str], undisturbed: bytes
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), *settings], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(list((run / "eval" / "test-dev.partial").glob("*.json"))) == 2
    messages = told(evaluate.run(evaluate.target(run, settings), "test-dev", device="cpu"))
    assert notes(messages)[0].startswith("4 of 7 images were evaluated before")
    assert zip_bytes(run) == undisturbed


@pytest.mark.law
def test_scores_after_an_interruption_are_those_without(run: Path, settings: list[str]) -> None:
    goal = evaluate.target(run, settings)
    whole = finish(evaluate.run(goal, "val", device="cpu"))
    cut_at(evaluate.run(goal, "val", device="cpu"), 5)
    again = finish(evaluate.run(goal, "val", device="cpu"))
    assert isinstance(whole, evaluate.Scores)
    assert isinstance(again, evaluate.Scores)
    assert again.metrics == whole.metrics


@pytest.mark.contract
@pytest.mark.parametrize("override", ["eval.score_floor=0.2", "views.short_side_px=48"])
def test_what_was_found_by_other_settings_is_not_taken(
    run: Path, settings: list[str], override: str, tmp_path: Path
) -> None:
    cut_at(evaluate.run(evaluate.target(run, settings), "test-dev", device="cpu"), 6)
    other = evaluate.target(run, [*settings, override])
    assert notes(told(evaluate.run(other, "test-dev", device="cpu"))) == []
    fresh = shutil.copytree(run, tmp_path / "fresh")
    shutil.rmtree(fresh / "eval")
    goal = evaluate.target(fresh, [*settings, override])
    finish(evaluate.run(goal, "test-dev", device="cpu"))
    assert zip_bytes(run) == zip_bytes(fresh)


@pytest.mark.contract
def test_what_other_weights_found_is_not_taken(run: Path, settings: list[str]) -> None:
    cut_at(evaluate.run(evaluate.target(run, settings), "test-dev", device="cpu"), 6)
    file = read_model(run / "model.pt")
    weights = {name: tensor + 0 for name, tensor in file.weights.items()}
    next(iter(weights.values())).view(-1)[0] += 1
    write_model(run / "model.pt", ModelFile(weights, file.detector, file.classes, file.origin))
    assert notes(told(evaluate.run(evaluate.target(run, settings), "test-dev", device="cpu"))) == []


@pytest.mark.contract
@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', "no JSON"])
def test_a_damaged_chunk_is_made_anew(
    run: Path, settings: list[str], undisturbed: bytes, damage: str
) -> None:
    goal = evaluate.target(run, settings)
    cut_at(evaluate.run(goal, "test-dev", device="cpu"), 6)
    (run / "eval" / "test-dev.partial" / "000000.json").write_text(damage)
    messages = told(evaluate.run(goal, "test-dev", device="cpu"))
    assert notes(messages)[0].startswith("2 of 7 images were evaluated before")
    assert zip_bytes(run) == undisturbed


@pytest.mark.contract
def test_a_comparison_cut_short_keeps_what_its_first_models_found(
    run: Path, settings: list[str], tmp_path: Path
) -> None:
    second = shutil.copytree(run, tmp_path / "runs" / "second")
    goals = [evaluate.target(each, settings) for each in (run, second)]
    job = evaluate.run_all(goals, "val", device="cpu")
    cut_at_second(job, str(second / "model.pt"))
    assert (run / "eval" / "val.json").is_file()
    messages = list(evaluate.run_all(goals, "val", device="cpu"))
    assert [(label, note.text.split(" (")[0]) for label, note in messages
            if isinstance(note, Note)] == [
        (str(run / "model.pt"), "7 of 7 images were evaluated before"),
        (str(second / "model.pt"), "2 of 7 images were evaluated before"),
    ]  # fmt: skip
    assert not list(tmp_path.rglob("*.partial"))


def cut_at_second(job: Generator[tuple[str, Any], None, Any], label: str) -> None:
    for name, message in job:
        if name == label and isinstance(message, Progress) and message.done == 3:
            job.close()
            return


@pytest.mark.contract
def test_only_chunks_are_removed_in_the_end(run: Path, settings: list[str]) -> None:
    partial = run / "eval" / "val.partial"
    partial.mkdir(parents=True)
    (partial / "notes.txt").write_text("mine")
    finish(evaluate.run(evaluate.target(run, settings), "val", device="cpu"))
    assert [path.name for path in partial.iterdir()] == ["notes.txt"]


@pytest.mark.contract
def test_the_submission_unpacks_to_one_flat_list_that_pycocotools_reads(
    run: Path, settings: list[str], mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    finish(evaluate.run(evaluate.target(run, settings), "test-dev", device="cpu"))
    shutil.unpack_archive(run / "eval" / f"{STEM}.zip", tmp_path / "unpacked")
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == [f"{STEM}.json"]
    document = json.loads((mixed / "annotations" / "instances_val.json").read_text())
    del document["annotations"]  # as in image_info_test-dev2017.json
    listing = tmp_path / "image_info.json"
    listing.write_text(json.dumps(document))
    found = COCO(str(listing)).loadRes(str(tmp_path / "unpacked" / f"{STEM}.json"))
    assert {row["image_id"] for row in found.anns.values()} == set(range(1, 8))
    capsys.readouterr()
