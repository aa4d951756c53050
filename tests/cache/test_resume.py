"""Builds that die, at every file operation and at random times, and go on."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from ldkit.cache.reader import CacheReader
from ldkit.errors import CacheIncomplete
from tests.cache.synthetic import build, make_keys, make_plan
from tests.cache.test_writer import snapshot

KEYS = make_keys(5)
PLAN = make_plan(KEYS)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doom_at(operation: int) -> None:
    """Make this process kill itself at its n-th write (half done), fsync, rename or removal."""
    left = operation
    sync, replace, unlink, write = os.fsync, Path.replace, Path.unlink, Path.write_bytes

    def is_due() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    def before(original: Callable[..., object]) -> Callable[..., object]:
        def doomed(*arguments: object, **named: object) -> object:
            if is_due():
                die()
            return original(*arguments, **named)

        return doomed

    def half(path: Path, content: bytes) -> int:
        if is_due():
            write(path, content[: len(content) // 2])
            die()
        return write(path, content)

    os.fsync = before(sync)
    Path.replace, Path.unlink, Path.write_bytes = before(replace), before(unlink), half


def build_and_die(folder: Path, operation: int) -> bool:
    """Build in a child that dies at an operation; say whether it got to the end before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        child = os.fork()
    if child == 0:
        doom_at(operation)
        build(folder, PLAN, KEYS)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


@pytest.mark.law
def test_a_build_killed_at_any_file_operation_ends_in_the_same_bytes(tmp_path) -> None:
    build(tmp_path / "whole", PLAN, KEYS)
    whole = snapshot(tmp_path / "whole")
    for operation in range(200):
        folder = tmp_path / f"killed_{operation}"
        if build_and_die(folder, operation):
            break
        if (folder / "manifest.json").exists():
            CacheReader.open_(folder)
        else:
            with pytest.raises(CacheIncomplete):
                CacheReader.open_(folder)
        build(folder, PLAN, KEYS)
        assert snapshot(folder) == whole, f"killed at operation {operation}"
    assert operation > 30


@pytest.mark.law
def test_a_build_killed_many_times_still_ends_in_the_same_bytes(tmp_path) -> None:
    build(tmp_path / "whole", PLAN, KEYS)
    dice = random.Random(0)
    for _ in range(100):
        if build_and_die(tmp_path / "killed", dice.randint(1, 14)):
            break
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


SLOW_BUILD = """
import os, sys, time
from pathlib import Path
from tests.cache.test_resume import KEYS, PLAN
from tests.cache.synthetic import build
sync = os.fsync
os.fsync = lambda handle: (time.sleep(0.02), sync(handle))
print("begin", flush=True)
build(Path(sys.argv[1]), PLAN, KEYS)
"""


@pytest.mark.law
def test_a_builder_process_killed_at_a_random_time_loses_nothing_but_its_shard(tmp_path) -> None:
    build(tmp_path / "whole", PLAN, KEYS)
    folder, dice = tmp_path / "killed", random.Random(time.time_ns())
    for _ in range(2):
        command = [sys.executable, "-c", SLOW_BUILD, str(folder)]
        with subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
        ) as builder:
            assert builder.stdout is not None
            assert builder.stdout.readline() == b"begin\n"
            time.sleep(dice.uniform(0, 0.4))
            receipts = set(folder.glob("shards/*.json"))
            builder.kill()
        assert receipts <= set(folder.glob("shards/*.json"))
    build(folder, PLAN, KEYS)
    assert snapshot(folder) == snapshot(tmp_path / "whole")
