"""Model files, caches, disks and folders that are not what a command needs."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Shell
from tests.cli.mistakes import BUILD, DISTILL, TRAIN, Mistake, meet
from tests.jobs.tiny import snapshot

CACHE = Path("caches/tiny")
SHARD = CACHE / "shards" / "000000.safetensors"
ANEW = "Take a model file that ldkit wrote (.pt or .safetensors)"
TEACHER = ("cache-logits", "student.yaml", "--teacher", "wrong.pt", "--out", "caches/new")


def flip_a_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def wrong_model(content: bytes) -> None:
    Path("wrong.pt").write_bytes(content)


def damaged_model() -> None:
    shutil.copy("t.pt", "wrong.pt")
    flip_a_byte(Path("wrong.pt"), Path("t.pt").stat().st_size // 2)


def foreign_model() -> None:
    torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, "wrong.pt")


MODELS = {
    "a teacher that is not there": Mistake(
        TEACHER, 5, ("wrong.pt: does not exist", "--teacher FILE", "ldkit teacher train")
    ),
    "a teacher that is a folder": Mistake(
        TEACHER,
        5,
        ("wrong.pt: is a folder, but an ldkit model file is expected.", ANEW),
        lambda: Path("wrong.pt").mkdir(),
    ),
    "a teacher cut short": Mistake(
        TEACHER,
        5,
        ("wrong.pt: is not an ldkit model file, or it is truncated or damaged.", ANEW),
        lambda: wrong_model(Path("t.pt").read_bytes()[:5000]),
    ),
    "a teacher that is text": Mistake(
        TEACHER, 5, ("wrong.pt: is not an ldkit model file", ANEW), lambda: wrong_model(b"hi\n" * 9)
    ),
    "an empty teacher": Mistake(
        TEACHER, 5, ("wrong.pt: is empty, but an ldkit model", ANEW), lambda: wrong_model(b"")
    ),
    "a teacher with a flipped byte": Mistake(TEACHER, 5, ("wrong.pt: is ",), damaged_model),
    "a teacher of another tool": Mistake(
        TEACHER,
        5,
        ("wrong.pt: is not an ldkit model file: it holds the entries 'state_dict'.", "import"),
        foreign_model,
    ),
    "a teacher without a recipe": Mistake(
        ("cache-logits", "--teacher", "wrong.pt"), 5, ("wrong.pt: does not exist",)
    ),
    "a live teacher that is not there": Mistake(
        (*DISTILL, "--online", "--teacher", "wrong.pt"), 5, ("wrong.pt: does not exist",)
    ),
    "a live teacher with other bins": Mistake(
        (*DISTILL, "--online", "--set", "student.head.reg_max=9"),
        5,
        ("t.pt: does not fit the student:", "num_bins: the teacher has 9, the student 10"),
    ),
    "a model to evaluate that is text": Mistake(
        ("eval", "wrong.pt"), 5, ("wrong.pt: is not an ldkit model",), lambda: wrong_model(b"x")
    ),
    "a run that is not finished": Mistake(
        ("eval", "data"), 2, ("data: is not a finished run: it holds no model.pt.", "--resume")
    ),
    "no run at all": Mistake(("eval",), 2, ("runs: holds no finished run.", "ldkit teacher train")),
}
CACHES = {
    "no cache at all": Mistake(
        ("distill", "--student", "r18"),
        2,
        ("caches: holds no sealed cache.", "ldkit cache-logits --teacher FILE", "--online"),
        lambda: shutil.rmtree("caches"),
    ),
    "a cache that is not finished": Mistake(
        ("distill", "--student", "r18"),
        2,
        ("caches: holds no sealed cache; unfinished: caches/tiny.", "Finish it"),
        lambda: (CACHE / "manifest.json").unlink(),
    ),
    "several caches": Mistake(
        ("distill", "--student", "r18"),
        2,
        ("caches: holds 2 sealed caches:\n  caches/other\n  caches/tiny\n", "--cache FOLDER"),
        lambda: shutil.copytree(CACHE, "caches/other"),
    ),
    "a cache folder that is not there": Mistake(
        (*DISTILL, "--cache", "caches/none"), 4, ("caches/none: is no folder.", "cache-logits")
    ),
    "a folder that is no cache": Mistake(
        (*DISTILL, "--cache", "data"), 4, ("data: holds no plan.json: no cache was begun here.",)
    ),
    "a cache without a manifest": Mistake(
        DISTILL,
        4,
        ("caches/tiny: is not sealed: 1 of 1 shards are complete.", "it seals the cache."),
        lambda: (CACHE / "manifest.json").unlink(),
    ),
    "a shard with a flipped byte": Mistake(
        DISTILL,
        4,
        (f"{SHARD}: is not what was written.", "expected sha256", "found", "Delete this file"),
        lambda: flip_a_byte(SHARD, -100),
        leaves="runs/student/",
    ),
    "a plan with a flipped byte": Mistake(
        DISTILL,
        4,
        ("caches/tiny/plan.json: is not what was written.", "Delete this file"),
        lambda: flip_a_byte(CACHE / "plan.json", 300),
    ),
    "a cache of other views": Mistake(
        (*DISTILL, "--set", "views.short_side_px=48"),
        4,
        ("caches/tiny: was made for another view policy.", "short_side_px", "64", "48", "Set `vie"),
    ),
    "a cache for a student with other bins": Mistake(
        (*DISTILL, "--teacher", "gone.pt", "--set", "student.head.reg_max=9"),
        4,
        ("caches/tiny: was made for other axes.", "num_bins", "9", "10"),
    ),
    "another cache in the place of this one": Mistake(
        ("cache-logits", "student.yaml", "--set", "views.short_side_px=48"),
        4,
        ("caches/tiny: was made for another view policy", "--out caches/NAME"),
    ),
    "a file in the place of a cache": Mistake(
        ("cache-logits", "student.yaml", "--out", "t.pt"), 7, ("t.pt is a file, not a folder.",)
    ),
    "nothing to look at": Mistake(("cache", "info", "nowhere"), 4, ("nowhere: is no folder.",)),
    "a file to look at": Mistake(("cache", "info", "t.pt"), 4, ("t.pt: is no folder.",)),
}
PLACES = {
    "a file in the place of drawn images": Mistake(
        ("data", "synth", "t.pt"), 7, ("t.pt is a file, not a folder.", "choose another folder")
    ),
    "a file in the place of a quickstart": Mistake(
        ("quickstart", "--out", "t.pt"), 7, ("t.pt is a file, not a folder.",)
    ),
    "a file in the place of all runs": Mistake(
        TRAIN, 7, ("runs is a file, not a folder.",), lambda: Path("runs").write_text("mine")
    ),
}
MISTAKES = MODELS | CACHES | PLACES


@pytest.mark.contract
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_file_is_told_and_nothing_is_lost(mistake: Mistake, ldkit: Shell) -> None:
    meet(mistake, ldkit)


WRITERS = {
    "teacher train": (*TRAIN, "--set", "eval.every_epochs=1"),
    "cache-logits": BUILD,
    "distill": DISTILL,
    "eval": ("eval", "t.pt"),
    "data synth": ("data", "synth", "drawn", "--train", "2", "--val", "1", "--size", "64"),
}
RESUMED = ("teacher train", "distill")


@pytest.mark.contract
@pytest.mark.parametrize("allowed", [0, 3])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_stops_a_command_and_once_there_is_space_it_finishes(
    name: str, allowed: int, home: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(home)
    words, written = WRITERS[name], []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) > allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        said = ldkit(*words)
    assert said.code == 7
    assert said.out == ""
    assert "could not be written: No space left on device." in said.err
    assert "Free space" in said.err
    assert not list(home.rglob("*.tmp"))
    assert before.items() <= snapshot(home).items()
    again = ldkit(*words, *(["--resume"] if name in RESUMED else []))
    assert again.code == 0, again.err


@pytest.mark.contract
@pytest.mark.parametrize("name", list(WRITERS))
def test_a_folder_that_may_not_be_written_is_told(
    name: str, home: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rights of a folder do not bind root, so the system's answer is given in its place."""
    before = snapshot(home)

    def mkdir(path: object, *_: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    said = ldkit(*WRITERS[name])
    assert said.code == 7
    assert "could not be written: Permission denied." in said.err
    assert snapshot(home) == before
