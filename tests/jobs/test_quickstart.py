"""The whole story on a handful of pictures, in processes of its own."""

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from ldkit.errors import UsageError
from ldkit.jobs import quickstart
from ldkit.jobs.progress import Note, Progress
from ldkit.jobs.quickstart_table import ONE_SEED, Outcome
from ldkit.jobs.scored_runs import Job, Told, trained_and_scored
from ldkit.training.events import Step
from tests.jobs.tiny import steps

TINY = ("schedule.max_steps=4", "train.batch_size=2", "eval.batch_size=1")
FILES = ("model.pt", "eval/val.json", "metrics.jsonl")


def in_this_process(jobs: Sequence[Job], at_once: int) -> Generator[Told, None, None]:
    """Stands for the processes where they are not the point: they cost seconds to start."""
    assert at_once == 2
    for job in jobs:
        for message in trained_and_scored(job):
            yield job.stage, message


def heard(job: Generator[Told, None, Outcome]) -> tuple[list[Told], Outcome]:
    told = []
    while True:
        try:
            told.append(next(job))
        except StopIteration as end:
            return told, end.value


@pytest.fixture(scope="module")
def few_pictures() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "TRAIN_IMAGES", 6)
        patch.setattr(quickstart, "VAL_IMAGES", 2)
        yield patch


@pytest.fixture(scope="module")
def story(
    few_pictures: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Told], Outcome]:
    """One quickstart that was closed while its students trained, and run again to its end."""
    root = tmp_path_factory.mktemp("quickstart")
    job = quickstart.run(root, seeds=1, overrides=TINY)
    told = []
    for stage, message in job:
        told.append((stage, message))
        if stage.startswith("student") and isinstance(message, Step):
            break
    job.close()
    few_pictures.setattr(quickstart, "in_processes", in_this_process)
    more, outcome = heard(quickstart.run(root, seeds=1, overrides=TINY))
    return root, told + more, outcome


def mtimes(root: Path, *runs: str) -> dict[Path, int]:
    paths = [root / "runs" / run / name for run in runs for name in FILES]
    paths += sorted((root / "caches").rglob("*.*")) + sorted((root / "shapes").rglob("*.jpg"))
    return {path: path.stat().st_mtime_ns for path in paths if path.name != "manifest.json"}


@pytest.mark.story
def test_every_stage_tells_what_it_does(story: tuple[Path, list[Told], Outcome]) -> None:
    root, told, _ = story
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages[:3] == ["data", "teacher", "cache"]
    assert sorted(stages[3:]) == ["student + LD, seed 0", "student, seed 0"]
    assert told[0] == ("data", Note(f"Drawing 6 + 2 scenes in {root / 'shapes'}."))
    for stage in ("teacher", "student, seed 0", "student + LD, seed 0"):
        taken = [one.step for name, one in told if name == stage and isinstance(one, Step)]
        assert taken == sorted(taken)
        assert taken[-1] == 4
    assert ("cache", Progress(12, 12, "views")) in told


@pytest.mark.story
def test_the_table_holds_the_teacher_both_students_and_their_difference(
    story: tuple[Path, list[Told], Outcome],
) -> None:
    root, _, result = story
    names = [row[0] for row in result.rows]
    assert names == ["teacher", "student", "student + LD", "difference"]
    assert result.columns == ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    assert all(len(row) == 1 + len(result.columns) for row in result.rows)
    assert result.caveat == ONE_SEED
    assert "times that" in str(result.facts["cache"])
    assert str(root) in str(result.facts["written"])
    for name, run in (("teacher", "teacher"), ("student", "plain_seed0")):
        scores = json.loads((root / "runs" / run / "eval" / "val.json").read_text())
        assert result.figures[name] == [{key: scores[key] for key in result.figures[name][0]}]


@pytest.mark.story
def test_the_result_is_a_file_too(story: tuple[Path, list[Told], Outcome]) -> None:
    root, _, result = story
    content = json.loads((root / "quickstart.json").read_text())
    assert content == json.loads(json.dumps(result.as_dict()))
    assert content["rows"] == result.rows


@pytest.mark.law
def test_the_two_students_of_a_pair_are_the_same_student_to_begin_with(
    story: tuple[Path, list[Told], Outcome],
) -> None:
    root = story[0] / "runs"
    plain, distilled = steps(root / "plain_seed0"), steps(root / "distilled_seed0")
    assert [step for step, _ in plain] == [step for step, _ in distilled] == [1, 2, 3, 4]
    first = dict(distilled[0][1])
    assert all(first.pop(name) > 0 for name in ("ld_main", "ld_vlr", "kd_main"))
    assert first == plain[0][1]
    assert plain[-1][1]["box"] != distilled[-1][1]["box"]


@pytest.mark.story
def test_more_seeds_reuse_what_is_there_and_give_standard_errors(
    story: tuple[Path, list[Told], Outcome],
) -> None:
    root = story[0]
    before = mtimes(root, "teacher", "plain_seed0", "distilled_seed0")
    told, result = heard(quickstart.run(root, seeds=2, overrides=TINY))
    assert mtimes(root, "teacher", "plain_seed0", "distilled_seed0") == before
    trained = {stage for stage, message in told if isinstance(message, Step)}
    assert trained == {"student, seed 1", "student + LD, seed 1"}
    assert result.title.endswith("(2 seeds)")
    assert all("±" in cell for row in result.rows[1:] for cell in row[1:] if cell != "-")
    assert not any("±" in cell for cell in result.rows[0])
    assert "over 2 seeds" in result.caveat
    assert steps(root / "runs" / "plain_seed1")[0] != steps(root / "runs" / "plain_seed0")[0]


@pytest.mark.contract
def test_a_folder_of_another_quickstart_is_not_mixed_with_this_one(
    story: tuple[Path, list[Told], Outcome],
) -> None:
    job = quickstart.run(story[0], seeds=1, overrides=[*TINY, "optim.lr=0.1"])
    with pytest.raises(UsageError, match="was begun with another recipe"):
        list(job)
