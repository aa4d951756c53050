"""Ctrl-C, at any stage: one calm and true line, exit code 130, and the command can go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldkit.cli import ctrl_c
from ldkit.data.dataset import _hang_up_quietly
from tests.cli.conftest import Shell
from tests.cli.test_app import commands
from tests.jobs.tiny import ROOT, environment, python

COMMAND = """
import sys
from ldkit.cli.app import main
sys.argv[0] = "ldkit"
main()
"""
QUICKSTART = f"""
from ldkit.jobs import quickstart
quickstart.TRAIN_IMAGES, quickstart.VAL_IMAGES = 6, 2
if __name__ == "__main__":{COMMAND.replace(chr(10), chr(10) + "    ")}
"""
PATIENCE_SECONDS = 60
RESUME = "Stopped. The same command with --resume goes on from the last saved step."
AGAIN = "Stopped. What is complete stays; the same command goes on from there."
LONG = ("--set", "schedule.epochs=500", "--set", "data.workers=1")


@pytest.fixture
def interrupts() -> Iterator[ctrl_c.Interrupts]:
    """The handlers of ldkit in place of those of the tests."""
    numbers = (signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = ctrl_c.Interrupts()
    handlers.install()
    yield handlers
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("teacher train r18.yaml", RESUME),
        ("--debug teacher train", RESUME),
        ("teacher import x.pth", "Stopped."),
        ("distill --student r18", RESUME),
        ("distill --ablate main", AGAIN),
        ("distill r.yaml --ablate=main", AGAIN),
        ("cache-logits", AGAIN),
        ("eval", AGAIN),
        ("quickstart --seeds 4", AGAIN),
        ("run shapes/ld", AGAIN),
        ("data synth x", "Stopped. The data set is incomplete; the same command draws it anew."),
        ("data check a b", "Stopped."),
        ("recipe check distill", "Stopped."),
        ("", "Stopped."),
    ],
)
def test_the_line_is_true_for_each_command(words: str, says: str) -> None:
    assert ctrl_c.stopped(words.split()) == says


@pytest.mark.contract
def test_every_command_that_has_something_to_say_exists() -> None:
    assert set(ctrl_c.STOPPED) <= set(commands())


@pytest.mark.contract
@pytest.mark.usefixtures("interrupts")
def test_a_second_press_at_once_does_not_disturb_the_first() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.contract
def test_a_second_press_after_a_while_counts(interrupts: ctrl_c.Interrupts) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupts._last_press -= ctrl_c.DOUBLE_PRESS_SECONDS
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.contract
@pytest.mark.usefixtures("interrupts")
def test_a_module_is_loaded_to_its_end_before_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nwhole = True\n"
    )
    (tmp_path / "slow_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _import_and_wait()
    loaded = sys.modules.pop("slow_module")
    assert isinstance(loaded, types.ModuleType)
    assert loaded.whole


def _import_and_wait() -> None:
    __import__("slow_module")
    time.sleep(PATIENCE_SECONDS)


class Thing:
    """Something that can be watched."""


@pytest.mark.contract
@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_that_falls_into_a_finalizer_comes_again() -> None:
    things = {Thing()}
    watch = [weakref.ref(thing, _press) for thing in things]
    with pytest.raises(KeyboardInterrupt):
        _drop_and_wait(things)
    assert [reference() for reference in watch] == [None]


def _press(_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def _drop_and_wait(things: set[Thing]) -> None:
    things.clear()
    time.sleep(PATIENCE_SECONDS)


@pytest.mark.contract
def test_a_process_that_was_started_to_ignore_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctrl_c.Interrupts().install()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.contract
def test_a_worker_whose_call_is_cut_off_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (EOFError(), ConnectionResetError()):
        _hang_up_quietly(type(error), error, None)
    assert capsys.readouterr().err == ""
    _hang_up_quietly(ValueError, ValueError("a mistake"), None)
    assert capsys.readouterr().err == "ValueError: a mistake\n"


class Child:
    """A command in a process group of its own, as a terminal starts it."""

    def __init__(self, code: str, *words: str) -> None:
        self.process = subprocess.Popen(
            python(code, *words),
            env={**environment(), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def wait_for(self, part: str) -> None:
        """Wait until a line holds these words."""
        self._wait(lambda: any(part in line for line in self.lines))

    def wait_for_file(self, pattern: str) -> None:
        self._wait(lambda: any(Path().rglob(pattern)))

    def _wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < end, "".join(self.lines)
            time.sleep(0.01)

    def interrupted(self) -> tuple[int, str, list[str]]:
        """Press Ctrl-C; return the exit code, what was printed, and the lines since."""
        before = len(self.lines)
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        self.process.stdout.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code, out, [line.strip() for line in self.lines[before:]]

    def survivors(self) -> list[str]:
        """Return the processes of the group that still run."""
        listing = subprocess.run(
            ["ps", "-e", "-o", "sess=,stat=,args="], capture_output=True, text=True, check=True
        )
        rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
        mine = [row for row in rows if row[0] == str(self.process.pid)]
        return [" ".join(row) for row in mine if not row[1].startswith("Z")]


def press(child: Child, says: str) -> None:
    """Interrupt a child and check that it ends as it should."""
    code, out, lines = child.interrupted()
    assert (code, out) == (130, ""), lines
    assert lines[-1] == says, "\n".join(lines)
    assert not [line for line in lines[:-1] if "/" not in line], lines  # progress, and no more
    end = time.monotonic() + PATIENCE_SECONDS / 6
    while child.survivors() and time.monotonic() < end:  # Python's own helper goes a moment later
        time.sleep(0.05)
    assert child.survivors() == []
    assert not list(Path().rglob("*.tmp"))


@pytest.mark.story
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("name", "words"),
    [("teacher", "teacher train teacher.yaml"), ("student", "distill student.yaml")],
)
def test_training_stops_with_a_state_and_resumes(name: str, words: str) -> None:
    child = Child(COMMAND, *words.split(), *LONG)
    child.wait_for(f"{name}: 0/")
    time.sleep(0.3)
    press(child, RESUME)
    (state,) = Path("runs", name, "checkpoints").glob("step_*/state.json")
    done = json.loads(state.read_text())["step"]
    assert done > 0
    assert not Path("runs", name, "model.pt").exists()
    child = Child(COMMAND, *words.split(), *LONG, "--resume")
    child.wait_for(f"Going on from step {done} ")
    press(child, RESUME)


@pytest.mark.story
@pytest.mark.usefixtures("home")
def test_a_cache_goes_on_where_it_was_stopped(ldkit: Shell) -> None:
    many = ("--set", "views.short_side_px=[32, 64]", "--set", "views.count=300")
    shards = ("--set", "cache.shard_mb=0.1", "--set", "data.workers=1", "--out", "caches/many")
    child = Child(COMMAND, "cache-logits", "student.yaml", *many, *shards)
    child.wait_for_file("caches/many/shards/*.json")
    press(child, AGAIN)
    complete = {path: path.stat().st_mtime_ns for path in Path("caches/many/shards").glob("*.json")}
    said = ldkit("cache-logits", "student.yaml", *many, *shards, "--json")
    assert said.code == 0, said.err
    assert said.err.startswith(f"Going on: {len(complete)} of ")
    assert json.loads(said.out)["state"]["sealed"]
    assert {path: path.stat().st_mtime_ns for path in complete} == complete


@pytest.mark.story
@pytest.mark.usefixtures("home")
def test_an_evaluation_goes_on_where_it_was_stopped(ldkit: Shell) -> None:
    path = Path("data/annotations/instances_val.json")
    document = json.loads(path.read_text())
    first = document["images"][0]
    document["images"] += [{**first, "id": number} for number in range(100, 900)]
    path.write_text(json.dumps(document))
    child = Child(COMMAND, "eval", "t.pt", "--set", "data.workers=1")
    child.wait_for_file("t/val.partial/*.json")
    press(child, AGAIN)
    said = ldkit("eval", "t.pt", "--set", "data.workers=0", "--json")
    assert said.code == 0, said.err
    assert "images were evaluated before" in said.err
    assert json.loads(said.out)["images"] == 803


@pytest.mark.story
def test_a_half_drawn_data_set_is_none(
    tmp_path: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("data", "synth", "drawn", "--val", "1", "--size", "64", "--train")
    child = Child(COMMAND, *words, "9000")
    child.wait_for_file("drawn/train/000010.jpg")
    press(child, "Stopped. The data set is incomplete; the same command draws it anew.")
    assert not any(Path("drawn").rglob("*.json"))
    assert ldkit(*words, "2").code == 0


@pytest.mark.story
def test_a_quickstart_stops_with_its_processes_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    child = Child(QUICKSTART, "quickstart")
    child.wait_for_file("quickstart/shapes/annotations/instances_val.json")
    press(child, AGAIN)  # while the teacher's process starts
    child = Child(QUICKSTART, "quickstart")
    child.wait_for("teacher: 0/")
    press(child, AGAIN)
    assert Path("quickstart/runs/teacher/recipe.yaml").is_file()
    assert not Path("quickstart/quickstart.json").exists()


@pytest.mark.story
@pytest.mark.usefixtures("home")
def test_a_command_stops_while_its_libraries_load() -> None:
    child = Child(COMMAND, "teacher", "train", "teacher.yaml")
    time.sleep(0.6)
    press(child, RESUME)
    assert not list(Path().rglob("model.pt"))
