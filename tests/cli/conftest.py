"""A shell in this process, and a small world to use it in."""

import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import torch

from ldkit.cli.app import main
from ldkit.jobs import build_cache, train_teacher
from ldkit.recipe.load import load_recipe
from tests.jobs.tiny import MIXED, STUDENT, TEACHER, draw_scenes, finish

HERE = "data:\n  root: data\n"


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Shell(Protocol):
    def __call__(self, *words: str) -> Said: ...


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ldkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """`ldkit WORDS...` as the shell runs it, but in this process."""
    monkeypatch.setenv("LDKIT_DEBUG", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["ldkit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    hook = sys.unraisablehook
    yield run
    sys.unraisablehook = hook
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="package")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, teacher.yaml, student.yaml, the teacher t.pt and its sealed cache."""
    root = tmp_path_factory.mktemp("shell")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        draw_scenes(Path("data"), MIXED)
        Path("teacher.yaml").write_text(TEACHER.replace("data:\n", HERE))
        student = STUDENT.replace("data:\n", HERE).replace("missing.pt", "t.pt")
        Path("student.yaml").write_text(student.replace("path: missing", "path: caches/tiny"))
        recipe = load_recipe("teacher.yaml", ["schedule.epochs=2"]).recipe
        finish(train_teacher.run(recipe, Path("run"), device="cpu", out=Path("t.pt")))
        shutil.rmtree("run")
        finish(build_cache.run(load_recipe("student.yaml").recipe, device="cpu"))
    return root


@pytest.fixture
def home(small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small world, and the current folder."""
    folder = tmp_path / "home"
    shutil.copytree(small_world, folder)
    monkeypatch.chdir(folder)
    return folder
