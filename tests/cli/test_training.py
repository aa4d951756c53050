"""`ldkit teacher train` and `ldkit distill`: what they print, resume and refuse."""

import json
from pathlib import Path

import pytest

from ldkit.models.checkpoint_file import read_model
from tests.cli.conftest import Shell
from tests.cli.mistakes import DISTILL, TRAIN


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_a_run_ends_with_its_folder_and_its_model(ldkit: Shell) -> None:
    said = ldkit(*TRAIN)
    assert said.code == 0, said.err
    assert said.out == "run    runs/teacher\nmodel  runs/teacher/model.pt\n"
    assert said.err.splitlines()[0] == "teacher: 0/4 steps"
    said = ldkit(*TRAIN, "--resume", "--out", "more/t.safetensors", "--json")
    assert json.loads(said.out) == {"run": "runs/teacher", "model": "more/t.safetensors"}
    assert "runs/teacher is finished already; nothing was trained." in said.err
    other, first = read_model(Path("more/t.safetensors")), read_model(Path("runs/teacher/model.pt"))
    assert other.fingerprint == first.fingerprint


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_a_finished_run_is_not_trained_over(ldkit: Shell) -> None:
    assert ldkit(*TRAIN).code == 0
    written = Path("runs/teacher/model.pt").stat().st_mtime_ns
    for words in (TRAIN, (*TRAIN, "--dry-run")):
        said = ldkit(*words)
        assert said.code == 2
        assert said.err == (
            "runs/teacher: holds a finished run already.\n"
            "Go on with it by `--resume`, or begin another with `--set name=...`.\n"
        )
    assert Path("runs/teacher/model.pt").stat().st_mtime_ns == written
    said = ldkit(*TRAIN, "--resume", "--set", "optim.lr=0.5")
    assert said.code == 2
    assert "was begun with another recipe" in said.err
    assert ldkit(*TRAIN, "--set", "name=other").code == 0


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_a_student_says_which_cache_and_recipe_it_takes(ldkit: Shell) -> None:
    said = ldkit(*DISTILL)
    assert said.code == 0, said.err
    assert said.out == "run    runs/student\nmodel  runs/student/model.pt\n"
    assert "Taking" not in said.err  # both were named
    said = ldkit(*DISTILL, "--set", "name=live", "--online", "--json")
    assert json.loads(said.out)["run"] == "runs/live"


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_eval_takes_the_newest_finished_run_and_says_so(ldkit: Shell) -> None:
    assert ldkit(*TRAIN).code == 0
    assert ldkit(*DISTILL).code == 0
    Path("runs/begun").mkdir()
    said = ldkit("eval")
    assert said.code == 0, said.err
    assert said.err.startswith("Evaluating runs/student/model.pt, the newest finished run.\n")
    assert "Written to runs/student/eval/val.json." in said.err
    said = ldkit("eval", "runs/teacher", "--json")
    assert json.loads(said.out)["model"] == "runs/teacher/model.pt"


@pytest.mark.contract
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--ablate", "main")])
def test_a_live_teacher_beside_a_cache_is_refused(
    more: tuple[str, ...], ldkit: Shell, home: Path
) -> None:
    said = ldkit(*DISTILL, "--cache", "caches/tiny", "--online", *more)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "--cache caches/tiny: is not read with --online, which asks the teacher itself.\n"
        "Leave out one of them.\n"
    )
    assert not (home / "runs").exists()
