import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ldkit.errors import CheckpointError, StorageError
from ldkit.training.checkpoint import TrainState, latest, read_state, write_state
from ldkit.training.events import Step
from ldkit.training.journal import read_journal
from ldkit.training.loop import fit
from tests.training.toy import ToyNet, bits, toy_batches, toy_course, toy_state, toy_step

ROOT = Path(__file__).parents[2]
VARIANTS = [
    ("sgd", False, None, False),
    ("sgd", True, None, True),
    ("adamw", False, 0.5, True),
    ("adamw", True, None, False),
]


def train(state: TrainState, until: int, clip_norm: float | None = None) -> list[dict[str, float]]:
    events = fit(toy_step(state), toy_batches, state, toy_course(until, clip_norm))
    return [event.terms for event in events if isinstance(event, Step)]


@contextmanager
def disk_that_ends_after(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Killed(BaseException):
    """Stands for a kill: nothing of ours may catch it."""


@pytest.mark.law
@pytest.mark.parametrize(("kind", "channels_last", "clip_norm", "companion"), VARIANTS)
def test_a_resumed_run_equals_an_undisturbed_one_to_the_bit(
    tmp_path: Path, kind: str, channels_last: bool, clip_norm: float | None, companion: bool
) -> None:
    whole = toy_state(kind, channels_last=channels_last, companion=companion)
    expected = train(whole, 10, clip_norm)
    first = toy_state(kind, channels_last=channels_last, companion=companion)
    losses = train(first, 5, clip_norm)
    folder = write_state(tmp_path, first, keep=2)
    second = toy_state(kind, seed=1, channels_last=channels_last, companion=companion)
    read_state(folder, second)
    assert second.step == 5
    assert bits(second) == bits(first)
    assert losses + train(second, 10, clip_norm) == expected
    assert bits(second) == bits(whole)


@pytest.mark.law
def test_saving_changes_nothing(tmp_path: Path) -> None:
    plain, saved = toy_state("adamw"), toy_state("adamw")
    train(plain, 6)
    for until in range(1, 7):
        train(saved, until)
        write_state(tmp_path, saved, keep=1)
    assert bits(plain) == bits(saved)


@pytest.mark.law
def test_a_state_restored_into_other_layouts_keeps_its_values(tmp_path: Path) -> None:
    state, other = toy_state("adamw"), toy_state("adamw", seed=1, channels_last=True)
    train(state, 2)
    read_state(write_state(tmp_path, state, keep=1), other)
    assert bits(other) == bits(state)
    moment = other.optimizer.state[other.model.get_parameter("first.weight")]["exp_avg"]
    assert moment.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.contract
def test_a_checkpoint_holds_three_files_without_pickles(tmp_path: Path) -> None:
    state = toy_state("adamw")
    train(state, 3)
    folder = write_state(tmp_path / "checkpoints", state, keep=1)
    assert folder.name == "step_0000003"
    names = {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert {path.name for path in folder.iterdir()} == names
    record = json.loads((folder / "state.json").read_text())
    assert record["step"] == 3
    assert record["optimizer"] == "AdamW"
    assert record["files"].keys() == names - {"state.json"}
    assert b"pickle" not in (folder / "optimizer.safetensors").read_bytes()
    header = (folder / "optimizer.safetensors").read_bytes()
    for name in (b"first.weight/exp_avg", b"scale/step", b"norm.bias/exp_avg_sq"):
        assert name in header
    assert b"frozen/" not in header


@pytest.mark.contract
def test_a_companion_has_a_file_of_its_own(tmp_path: Path) -> None:
    state = toy_state("adamw", companion=True)
    train(state, 3)
    folder = write_state(tmp_path / "with", state, keep=1)
    alone = toy_state("adamw")
    other = write_state(tmp_path / "without", alone, keep=1)
    names = {path.name for path in folder.iterdir()}
    assert names - {path.name for path in other.iterdir()} == {"companion.safetensors"}
    assert b"running_mean" in (folder / "companion.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"unexpected  companion\.0\.bias \(5,\)"):
        read_state(folder, alone)
    before = bits(state)
    with pytest.raises(CheckpointError, match=r"missing     companion\.0\.bias \(5,\)"):
        read_state(other, state)
    assert bits(state) == before


@pytest.mark.contract
def test_the_latest_state_is_the_complete_one_of_the_highest_step(tmp_path: Path) -> None:
    assert latest(tmp_path / "nothing") is None
    state = toy_state()
    for step in (9, 10, 10_000_000):
        state.step = step
        write_state(tmp_path, state, keep=3)
    assert latest(tmp_path) == tmp_path / "step_10000000"
    (tmp_path / "step_10000000" / "state.json").unlink()
    (tmp_path / "step_x").mkdir()
    assert latest(tmp_path) == tmp_path / "step_0000010"


@pytest.mark.contract
def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    state = toy_state()
    (tmp_path / "step_0000001").mkdir()
    (tmp_path / "step_0000001" / ".model.safetensors.77.tmp").write_bytes(b"half")
    for step in range(2, 7):
        state.step = step
        write_state(tmp_path, state, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000005", "step_0000006"]
    with pytest.raises(ValueError, match="keep"):
        write_state(tmp_path, state, keep=0)


@pytest.mark.contract
def test_a_step_that_is_saved_already_is_not_written_again(tmp_path: Path) -> None:
    state = toy_state()
    folder = write_state(tmp_path, state, keep=1)
    inodes = {path.stat().st_ino for path in folder.iterdir()}
    assert write_state(tmp_path, state, keep=1) == folder
    assert {path.stat().st_ino for path in folder.iterdir()} == inodes


@pytest.mark.contract
@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_full_disk_leaves_the_older_state_usable(tmp_path: Path, size: int) -> None:
    state = toy_state("adamw")
    train(state, 2)
    older = write_state(tmp_path, state, keep=1)
    before = bits(state)
    train(state, 4)
    with disk_that_ends_after(size), pytest.raises(StorageError) as caught:
        write_state(tmp_path, state, keep=1)
    text = str(caught.value)
    assert "step_0000004" in text
    assert "could not be written: File too large" in text
    assert latest(tmp_path) == older
    fresh = toy_state("adamw", seed=1)
    read_state(older, fresh)
    assert bits(fresh) == before
    assert latest(tmp_path) != write_state(tmp_path, state, keep=1) == latest(tmp_path)


@pytest.mark.contract
def test_a_kill_at_any_file_operation_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = toy_state("adamw")
    train(state, 2)
    old_bits = bits(state)
    first = tmp_path / "first"
    write_state(first, state, keep=1)
    train(state, 4)
    new_bits = bits(state)
    seen = set()
    for deadly in range(100):
        folder = tmp_path / f"run{deadly}"
        shutil.copytree(first, folder)
        killed = save_until_killed(folder, state, deadly, monkeypatch)
        newest = latest(folder)
        assert newest is not None
        fresh = toy_state("adamw", seed=1)
        read_state(newest, fresh)
        assert bits(fresh) == (new_bits if fresh.step == 4 else old_bits)
        seen.add(fresh.step)
        write_state(folder, state, keep=1)
        assert [path.name for path in folder.iterdir()] == ["step_0000004"]
        if not killed:
            break
    assert seen == {2, 4}
    assert deadly > 10


OPERATIONS: list[tuple[Any, str]] = [
    (Path, "write_bytes"),
    (Path, "write_text"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (os, "fsync"),
    (shutil, "rmtree"),
]


def save_until_killed(
    folder: Path, state: TrainState, deadly: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Save, but die before file operation number `deadly`; say whether it came to that."""
    count = iter(range(1000))

    def counting(original: Callable[..., object]) -> Callable[..., object]:
        def operation(*arguments: object, **options: object) -> object:
            if next(count) == deadly:
                raise Killed
            return original(*arguments, **options)

        return operation

    with monkeypatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, counting(getattr(owner, name)))
        try:
            write_state(folder, state, keep=1)
        except Killed:
            return True
    return False


SCRIPT = """
import sys
from pathlib import Path
from ldkit.training.checkpoint import write_state
from ldkit.training.journal import Journal
from ldkit.training.loop import fit
from tests.training.toy import toy_batches, toy_course, toy_state, toy_step
run, state = Path(sys.argv[1]), toy_state("adamw")
with Journal(run / "metrics.jsonl") as journal:
    for event in fit(toy_step(state), toy_batches, state, toy_course()):
        journal.write(event)
        if event.step:
            write_state(run / "checkpoints", state, keep=2)
"""


@pytest.mark.story
def test_a_run_killed_while_it_saves_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT)
    while latest(tmp_path / "checkpoints") is None:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    assert process.wait() == -9
    resumed, undisturbed = toy_state("adamw", seed=1), toy_state("adamw")
    newest = latest(tmp_path / "checkpoints")
    assert newest is not None
    read_state(newest, resumed)
    told = [event.terms for event in read_journal(tmp_path / "metrics.jsonl") if event.step]
    known = told[: resumed.step]
    assert known + train(resumed, resumed.step + 5) == train(undisturbed, len(known) + 5)
    assert bits(resumed) == bits(undisturbed)


@pytest.mark.contract
def test_a_state_of_another_shape_is_refused_with_everything_that_differs(tmp_path: Path) -> None:
    state = toy_state("adamw")
    train(state, 1)
    folder = write_state(tmp_path, state, keep=1)
    other = toy_state("adamw", seed=1, width=4)
    before = bits(other)
    with pytest.raises(CheckpointError) as caught:
        read_state(folder, other)
    text = str(caught.value)
    assert text.startswith(f"{folder}: holds another model:\n")
    assert "shape       first.weight is (8, 3, 3, 3), the model has (4, 3, 3, 3)" in text
    assert "Resume with the recipe that the run began with" in text
    assert "... and 5 more" in text
    assert bits(other) == before
    assert other.step == 0


@pytest.mark.contract
def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    state = toy_state()
    train(state, 1)
    folder = write_state(tmp_path, state, keep=1)
    model = torch.nn.ModuleDict({"first": ToyNet().first, "extra": torch.nn.Linear(1, 1)})
    other = TrainState(model, torch.optim.SGD(model.parameters(), momentum=0.9))
    with pytest.raises(CheckpointError) as caught:
        read_state(folder, other)
    text = str(caught.value)
    assert "missing     extra.bias (1,)" in text
    assert "unexpected  scale ()" in text
    assert "unexpected  last.bias/momentum_buffer: no such trainable parameter" in text


@pytest.mark.contract
def test_a_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    folder = write_state(tmp_path, toy_state("sgd"), keep=1)
    with pytest.raises(CheckpointError) as caught:
        read_state(folder, toy_state("adamw"))
    assert "was trained with SGD, but this run uses AdamW." in str(caught.value)
    assert "Set optim.kind to what the run began with" in str(caught.value)


@pytest.mark.contract
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "companion.safetensors"]
)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_found_and_the_way_back_is_told(
    tmp_path: Path, name: str, damage: str
) -> None:
    state = toy_state(companion=True)
    train(state, 2)
    folder = write_state(tmp_path, state, keep=1)
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_state(folder, toy_state(companion=True))
    assert str(caught.value).startswith(f"{path}: is damaged: ")
    assert "Remove step_0000002 and resume again" in str(caught.value)


@pytest.mark.contract
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "other-1", "step": 3}'])
def test_a_foreign_state_file_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_state(tmp_path, toy_state(), keep=1)
    (folder / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not a state that this version of ldkit has"):
        read_state(folder, toy_state())


@pytest.mark.contract
def test_a_folder_without_a_state_file_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_state(tmp_path, toy_state())
    assert "is not a complete checkpoint: state.json cannot be read" in str(caught.value)
    assert "runs/NAME/checkpoints/step_0010000" in str(caught.value)


@pytest.mark.contract
def test_a_file_in_place_of_the_checkpoint_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "step_0000000").write_text("in the way")
    with pytest.raises(StorageError, match="is in the way of a checkpoint and cannot be removed"):
        write_state(tmp_path, toy_state(), keep=1)
