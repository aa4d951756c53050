"""One command from teacher to table: done once, resumed anywhere, done again only where touched."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ldkit.errors import CheckpointError, DataError, LdkitError, UsageError
from ldkit.jobs import build_cache, distill, pipeline
from ldkit.jobs.pipeline import Options
from ldkit.jobs.pipeline_table import Outcome
from ldkit.jobs.progress import Message, Progress
from ldkit.jobs.stage_places import State
from ldkit.models.checkpoint_file import read_model, weights_fingerprint, write_model
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.training.events import Step
from tests.jobs.tiny import (
    CLASSES,
    MIXED,
    ROOT,
    STUDENT,
    TEACHER,
    draw_scenes,
    environment,
    finish,
    python,
    snapshot,
    steps,
    weights,
)
from tests.models.mmdet_files import older_file, published_state, save, small_detector

ALL = (
    *("teacher", "scores of the teacher", "cache", "student", "scores of the student"),
    *("baseline", "scores of the baseline"),
)
SCORES = tuple(stage for stage in ALL if stage.startswith("scores"))
SMALL = ("cache.shard_mb=0.003", "cache.batch_size=2")
"""Several shards, so that a build can stop between two."""
PAIRED = Options(with_baseline=True, device="cpu")
ALONE = Options(device="cpu")

Job = Generator[tuple[str, Message], None, Outcome]
Ending = Callable[[str, Message], bool]


def recipe(*overrides: str) -> Recipe:
    """Return the student's recipe of the current folder."""
    return load_recipe("student.yaml", [*SMALL, *overrides]).recipe


def found(*overrides: str, options: Options = PAIRED) -> dict[str, pipeline.Done]:
    return {done.stage: done for done in pipeline.outline(recipe(*overrides), options)}


def done_again(outcome: Outcome) -> tuple[str, ...]:
    """Return the stages that were not finished when their turn came."""
    return tuple(stage["stage"] for stage in outcome.stages if stage["state"] != "finished")


def stop(job: Job, is_last: Ending) -> None:
    """Run until a message, then let go, as Ctrl-C does."""
    next(message for message in job if is_last(*message))
    job.close()


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return bytes and time of every file below a folder."""
    return {
        name: (content, (folder / name).stat().st_mtime_ns)
        for name, content in snapshot(folder).items()
    }


def write_world(folder: Path) -> None:
    draw_scenes(folder / "data", MIXED)
    (folder / "teacher.yaml").write_text(TEACHER)
    text = STUDENT.replace("checkpoint: missing.pt", "checkpoint: t.pt, recipe: teacher.yaml")
    text = text.replace("cache: {path: missing}", "cache: {path: caches/c}")
    (folder / "student.yaml").write_text(text.replace("data:\n", "data:\n  root: data\n"))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and two recipes, entered."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a whole run with its baseline, and its table; copied by those who change it."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, finish(pipeline.run(recipe(), PAIRED))


@pytest.fixture
def copy(finished: tuple[Path, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, entered."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.story
def test_a_recipe_runs_from_its_teacher_to_its_table(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    assert done_again(outcome) == ALL
    for path in (
        *("t.pt", "runs/teacher/model.pt", "caches/c/manifest.json"),
        *("runs/student/model.pt", "runs/student_baseline/model.pt"),
        *("runs/student/eval/val.json", "runs/student_teacher/eval/val.json"),
    ):
        assert (folder / path).is_file(), path
    assert weights_fingerprint(read_model(folder / "t.pt").weights) == weights(
        folder / "runs" / "teacher"
    )
    assert outcome.title == "student on val, AP in percent"
    assert outcome.columns == ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    names = [row[0] for row in outcome.rows]
    assert names == [
        *("teacher", "student", "baseline"),
        *("student - baseline", "student - teacher"),
    ]
    for row in outcome.rows:
        assert len(row) == 8
    shown = outcome.figures["student"]["ap"], outcome.figures["teacher"]["ap"]
    assert None not in shown
    assert outcome.rows[1][1] == f"{100 * shown[0]:.1f}"
    assert outcome.rows[4][1] == f"{100 * (shown[0] - shown[1]):+.1f}"
    assert outcome.models == {
        "teacher": "t.pt",
        "student": "runs/student/model.pt",
        "baseline": "runs/student_baseline/model.pt",
    }


@pytest.mark.law
def test_the_pair_differs_by_the_distillation_alone(finished: tuple[Path, Outcome]) -> None:
    runs = finished[0] / "runs"
    distilled, plain = steps(runs / "student"), steps(runs / "student_baseline")
    first = dict(distilled[0][1])
    assert first.pop("ld_main") > 0
    assert first == plain[0][1]
    assert len(distilled) == len(plain)
    assert read_model(runs / "student_baseline" / "model.pt").origin.get("teacher") is None


@pytest.mark.law
def test_a_second_run_does_nothing_and_shows_the_same_table(
    copy: Path, finished: tuple[Path, Outcome]
) -> None:
    before = files(copy)
    outcome = finish(pipeline.run(recipe(), PAIRED))
    assert done_again(outcome) == ()
    assert files(copy) == before
    assert replace(outcome, stages=[]) == replace(finished[1], stages=[])


TOUCHES: dict[str, tuple[str, ...]] = {
    "optim.lr=0.003": ALL[3:],
    "seed=1": ALL[3:],
    "student.head.convs=2": ALL[3:],
    "objective.localization.main.temperature=3": ("student", "scores of the student"),
    "cache.main.bbox_logits=fp32": ("cache", "student", "scores of the student"),
    "views.flip=0.0": ("cache", *ALL[3:]),
    "views.short_side_px=48": ALL[1:],
    "eval.nms_iou=0.5": SCORES,
    "eval.batch_size=1": (),
    "eval.every_epochs=1": (),
    "data.workers=1": (),
    "train.checkpoint_every_steps=1": (),
    "cache.shard_mb=1": (),
    "teacher.recipe=null": (),
    "expect={ap: 30}": (),
}


@pytest.mark.law
@pytest.mark.parametrize(("change", "touched"), TOUCHES.items(), ids=TOUCHES)
def test_a_change_does_again_what_it_touches_and_leaves_every_file_as_it_was(
    copy: Path, change: str, touched: tuple[str, ...]
) -> None:
    key = change.partition("=")[0].rpartition(".")[2]
    before = files(copy)
    outlook = found(change)
    outcome = finish(pipeline.run(recipe(change), PAIRED))
    assert done_again(outcome) == touched
    after = files(copy)
    assert {name: after[name] for name in before} == before
    assert bool(touched) == (set(after) > set(before))
    for stage in outcome.stages:
        if stage["stage"] not in touched:
            assert outlook[stage["stage"]].status.state is State.FINISHED
    for name in touched:
        if not name.startswith("scores"):
            assert key in [each.key.rpartition(".")[2] for each in outlook[name].status.changes]
    assert done_again(finish(pipeline.run(recipe(change), PAIRED))) == ()
    assert done_again(finish(pipeline.run(recipe(), PAIRED))) == ()


@pytest.mark.law
def test_another_teacher_touches_everything_but_the_baseline(copy: Path) -> None:
    teacher = read_model(copy / "t.pt")
    moved = {name: tensor + 0.01 * (tensor.ndim > 1) for name, tensor in teacher.weights.items()}
    write_model(copy / "t.pt", replace(teacher, weights=moved))
    before = files(copy)
    outcome = finish(pipeline.run(recipe(), PAIRED))
    assert done_again(outcome) == ALL[1:5]
    after = files(copy)
    assert {name: after[name] for name in before} == before
    student = next(stage for stage in outcome.stages if stage["stage"] == "student")
    assert student["differs_from"] == "runs/student"
    assert [change["key"] for change in student["changes"]] == ["teacher"]


@pytest.mark.contract
@pytest.mark.usefixtures("copy")
def test_a_stage_says_where_it_goes_and_why() -> None:
    stages = found("optim.lr=0.003", "optim.weight_decay=0.1")
    status = stages["student"].status
    assert status.output.parent == Path("runs")
    assert status.output.name.startswith("student-")
    assert pipeline.in_words(status) == (
        f"to do, {status.output}, since runs/student differs:\n"
        "  optim.lr            0.002 → 0.003\n"
        "  optim.weight_decay  0.02 → 0.1"
    )
    assert stages["cache"].status == replace(found()["cache"].status)
    assert pipeline.in_words(stages["teacher"].status) == "finished, t.pt (taken as it is)"
    assert stages["scores of the student"].status.state is State.WAITING


@pytest.mark.contract
@pytest.mark.usefixtures("copy")
def test_the_nearest_of_several_outputs_explains_a_new_one() -> None:
    finish(pipeline.run(recipe("optim.lr=0.003"), ALONE))
    status = found("optim.lr=0.003", "seed=2")["student"].status
    assert status.nearest != Path("runs/student")
    assert [change.key for change in status.changes] == ["seed"]


def at(stage: str, kind: type[Any], number: int) -> Ending:
    """Return a test for the nth message of a kind that a stage tells."""
    left = [number]

    def is_it(name: str, message: Message) -> bool:
        left[0] -= name == stage and isinstance(message, kind)
        return left[0] == 0

    return is_it


ENDINGS = {
    "in the teacher": (at("teacher", Step, 2), ALL),
    "after the teacher": (at("scores of the teacher", object, 1), ALL[1:]),
    "in the cache": (at("cache", Progress, 3), ALL[2:]),
    "before the student": (at("student", object, 1), ALL[3:]),
    "in the student": (at("student", Step, 3), ALL[3:]),
    "before its scores": (at("scores of the student", object, 1), ALL[4:]),
    "in its scores": (at("scores of the student", Progress, 1), ALL[4:]),
    "in the baseline": (at("baseline", Step, 1), ALL[5:]),
}


@pytest.mark.law
def test_a_run_that_stops_anywhere_goes_on_there_and_ends_in_the_same_models(
    empty: Path, finished: tuple[Path, Outcome]
) -> None:
    for place, (ending, left) in ENDINGS.items():
        stop(pipeline.run(recipe(), PAIRED), ending)
        stages = found()
        undone = tuple(n for n in ALL if stages[n].status.state is not State.FINISHED)
        assert undone == left, place
    outcome = finish(pipeline.run(recipe(), PAIRED))
    assert done_again(outcome) == ALL[5:]
    for run in ("teacher", "student", "student_baseline"):
        assert weights(empty / "runs" / run) == weights(finished[0] / "runs" / run)
    assert outcome.rows == finished[1].rows
    assert not list(empty.glob("runs/*-*"))


CHILD = """
import sys
from ldkit.jobs import pipeline
from ldkit.recipe.load import load_recipe
from ldkit.training.events import Step
recipe = load_recipe("student.yaml", sys.argv[1:]).recipe
for stage, message in pipeline.run(recipe, pipeline.Options(device="cpu")):
    if isinstance(message, Step):
        print(stage, message.step, flush=True)
"""


@pytest.mark.law
def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(
    empty: Path, finished: tuple[Path, Outcome]
) -> None:
    often = ("train.checkpoint_every_steps=2",)
    with subprocess.Popen(
        python(CHILD, *SMALL, *often),
        cwd=empty,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert "student 3\n" in iter(child.stdout.readline, "")
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGKILL
    status = found(*often)["student"].status
    assert status.state is State.UNFINISHED
    assert status.note == "goes on from step_0000002"
    finish(pipeline.run(recipe(*often), ALONE))
    assert weights(empty / "runs" / "student") == weights(finished[0] / "runs" / "student")


@pytest.mark.law
def test_values_that_decide_nothing_may_change_before_a_run_goes_on(copy: Path) -> None:
    for path in ("runs/student", "caches/c"):
        shutil.rmtree(copy / path)
    stop(pipeline.run(recipe(), ALONE), at("student", Step, 3))
    other = ("train.keep=1", "eval.max_detections=50", "cache.shard_mb=1", "data.workers=0")
    stages = found(*other)
    assert stages["student"].status.note == "goes on from step_0000003"
    outcome = finish(pipeline.run(recipe(*other), ALONE))
    assert outcome.models["student"] == "runs/student/model.pt"
    assert load_recipe("runs/student/recipe.yaml").recipe.train.keep == 1


@pytest.mark.law
def test_a_cache_that_was_begun_another_way_is_left_for_a_new_one(copy: Path) -> None:
    shutil.rmtree(copy / "caches")
    stop(pipeline.run(recipe(), ALONE), at("cache", Progress, 3))
    before = files(copy / "caches" / "c")
    status = found("cache.shard_mb=1")["cache"].status
    assert [change.key for change in status.changes] == ["build.views_per_shard"]
    finish(pipeline.run(recipe("cache.shard_mb=1"), ALONE))
    assert files(copy / "caches" / "c") == before
    assert (copy / status.output / "manifest.json").is_file()
    assert found()["student"].status.state is State.FINISHED


@pytest.mark.law
def test_a_lost_shard_is_built_again(copy: Path) -> None:
    kept = files(copy / "caches" / "c")
    (copy / "caches" / "c" / "shards" / "000001.safetensors").unlink()
    status = found()["cache"].status
    assert (status.state, status.output) == (State.UNFINISHED, Path("caches/c"))
    assert " shards are complete" in status.note
    assert done_again(finish(pipeline.run(recipe(), PAIRED))) == ("cache",)
    now = files(copy / "caches" / "c")
    assert {name: content for name, (content, _) in now.items()} == {
        name: content for name, (content, _) in kept.items()
    }


@pytest.mark.law
def test_what_single_commands_made_is_taken_as_it_is(copy: Path) -> None:
    own = recipe()
    finished_run, cut = Path("runs/student"), Path("runs/student_baseline")
    shutil.rmtree(finished_run)
    shutil.rmtree(cut)
    finish(distill.run(own, finished_run, distill.Options(device="cpu")))
    plain = recipe("objective.localization.main=null", "name=student_baseline")
    job = distill.run(plain, cut, distill.Options(device="cpu"))
    next(message for message in job if isinstance(message, Step) and message.step == 2)
    job.close()
    outcome = finish(pipeline.run(own, PAIRED))
    assert done_again(outcome) == ("scores of the student", "baseline", "scores of the baseline")
    assert outcome.stages[5]["note"] == "goes on from step_0000002"
    assert not list(copy.glob("runs/*-*"))


@pytest.mark.contract
def test_looking_writes_nothing(empty: Path) -> None:
    before = files(empty)
    stages = found()
    assert files(empty) == before
    assert tuple(stages) == ALL
    states = [stages[name].status.state for name in ALL]
    waits = State.WAITING
    assert states == [State.TO_DO, waits, waits, waits, waits, State.TO_DO, waits]
    assert pipeline.in_words(stages["teacher"].status) == "to do, t.pt (trained in runs/teacher)"
    assert pipeline.in_words(stages["cache"].status) == "waiting, caches/c (for the teacher)"


@pytest.mark.law
def test_a_trained_teacher_that_was_not_written_out_is_only_copied(copy: Path) -> None:
    was = (copy / "t.pt").read_bytes()
    before = files(copy / "runs")
    (copy / "t.pt").unlink()
    status = found()["teacher"].status
    assert status.note == "trained in runs/teacher, not yet written here"
    assert done_again(finish(pipeline.run(recipe(), PAIRED))) == ("teacher",)
    assert (copy / "t.pt").read_bytes() == was
    assert files(copy / "runs") == before


@pytest.mark.contract
def test_a_teacher_that_is_there_stays_and_a_changed_recipe_of_its_is_told(copy: Path) -> None:
    (copy / "teacher.yaml").write_text(TEACHER.replace("lr: 2e-3", "lr: 1e-3"))
    status = found()["teacher"].status
    assert status.state is State.FINISHED
    assert status.note == (
        "taken as it is, though teacher.yaml would train another one now: optim.lr 0.002 → 0.001"
    )
    assert done_again(finish(pipeline.run(recipe(), PAIRED))) == ()


@pytest.mark.story
def test_a_published_teacher_is_imported_and_used(empty: Path) -> None:
    state = published_state(small_detector())
    save(older_file(state, classes=CLASSES), empty / "published.pth")
    own = (
        "teacher={checkpoint: imported.pt, published: published.pth, recipe: teacher.yaml}",
        "student.fpn.levels=[3, 4, 5, 6, 7]",
        "student.head={norm_groups: 4, reg_max: 8, anchor_scale: 8, bin_width: 1}",
        "views={short_side_px: 160, long_side_max_px: 320}",
        "schedule.max_steps=1",
    )
    assert found(*own)["teacher"].status.note == "imported from published.pth"
    outcome = finish(pipeline.run(recipe(*own), ALONE))
    assert outcome.models["teacher"] == "imported.pt"
    assert [row[0] for row in outcome.rows] == ["teacher", "student", "student - teacher"]
    teacher = read_model(empty / "imported.pt").fingerprint
    assert read_model(empty / "runs" / "student" / "model.pt").origin["teacher"] == teacher
    assert not (empty / "runs" / "teacher").exists()
    assert done_again(finish(pipeline.run(recipe(*own), ALONE))) == ()


@pytest.mark.law
@pytest.mark.usefixtures("empty")
def test_a_recipe_without_a_teacher_trains_and_is_scored() -> None:
    alone = load_recipe("teacher.yaml", ["data.root=data"]).recipe
    outcome = finish(pipeline.run(alone, ALONE))
    assert done_again(outcome) == ("model", "scores of the model")
    assert [row[0] for row in outcome.rows] == ["model"]
    plain = recipe("objective.localization.main=null", "cache=null")
    assert [done.stage for done in pipeline.outline(plain, ALONE)] == [
        "student",
        "scores of the student",
    ]


def refusal(kind: type[LdkitError], *overrides: str, options: Options = ALONE) -> str:
    """Return the message with which nothing is started."""
    before = files(Path())
    with pytest.raises(kind) as caught:
        finish(pipeline.run(recipe(*overrides), options))
    assert files(Path()) == before
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.contract
@pytest.mark.usefixtures("empty")
def test_without_a_teacher_and_a_way_to_one_the_three_ways_are_named() -> None:
    text = refusal(UsageError, "teacher.recipe=null")
    assert text.startswith("t.pt: is not there, and the recipe does not say how to get it.\n")
    for way in ("checkpoint=FILE.pt", "published=FILE.pth", "recipe=coco/gfl_r101"):
        assert f"--set teacher.{way}" in text


@pytest.mark.contract
@pytest.mark.usefixtures("empty")
def test_a_teacher_that_cannot_come_is_refused_before_anything_starts() -> None:
    text = refusal(UsageError, "teacher.published=gone.pth")
    assert text.startswith("teacher.published = gone.pth: is not there")
    text = refusal(UsageError, "teacher.recipe=student.yaml")
    assert text.startswith("teacher.recipe = student.yaml: trains a student")
    text = refusal(CheckpointError, "student.head.reg_max=16", "student.fpn.levels=[3, 4, 5]")
    assert text.startswith("teacher.recipe = teacher.yaml: would train a teacher that does not fit")
    assert "num_bins: the teacher has 9, the student 17" in text
    assert "strides: " in text


@pytest.mark.contract
@pytest.mark.usefixtures("empty")
def test_a_run_that_cannot_come_to_its_table_is_refused() -> None:
    text = refusal(UsageError, "data.val=null")
    assert text.startswith("student: has no `data.val`")
    text = refusal(UsageError, "cache=null")
    assert text.startswith("student: has no `cache` section")
    text = refusal(UsageError, "objective.localization.main=null", options=PAIRED)
    assert text.startswith("student, --with-baseline: trains without a teacher")
    text = refusal(UsageError, options=Options(device="tpu"))
    assert text.startswith("--device: there is no device 'tpu'.")
    assert "missing" in refusal(DataError, "data.val.images=missing")


@pytest.mark.contract
def test_a_teacher_never_goes_into_the_folder_of_another_run(empty: Path) -> None:
    inside = "teacher.checkpoint=runs/teacher/model.pt"
    stop(pipeline.run(recipe(inside), ALONE), at("teacher", Step, 2))
    other = TEACHER.replace("lr: 2e-3", "lr: 1e-3")
    (empty / "teacher.yaml").write_text(other)
    text = refusal(UsageError, inside)
    assert text.startswith("runs/teacher: holds an unfinished run of another recipe:\n")
    assert "  optim.lr: 0.002 there, 0.001 here\n" in text
    status = found()["teacher"].status
    assert status.note.startswith("trained in runs/teacher-")
    (empty / "teacher.yaml").write_text(TEACHER)
    finish(pipeline.run(recipe(inside), ALONE))
    assert read_model(empty / "runs" / "teacher" / "model.pt").origin["steps"] > 2


@pytest.mark.law
@pytest.mark.usefixtures("copy")
def test_a_student_of_the_pipeline_is_the_student_of_the_single_commands(
    finished: tuple[Path, Outcome],
) -> None:
    own = recipe("cache.path=alone")
    finish(build_cache.run(own, device="cpu"))
    finish(distill.run(own, Path("alone_run"), distill.Options(device="cpu")))
    assert weights(Path("alone_run")) == weights(finished[0] / "runs" / "student")
