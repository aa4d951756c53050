"""The resumable state of a run, on disk.

    checkpoints/step_0090000/
      model.safetensors        parameters and buffers, by name
      companion.safetensors    the same of what is trained along with it, if anything
      optimizer.safetensors    PARAMETER/KEY, e.g. head.cls.weight/momentum_buffer
      state.json               position, sizes and checksums; written last

The presence of state.json means complete: what a kill or a full disk left without one is
ignored, and removed with a later save. Nothing is pickled.
"""

import hashlib
import logging
import re
import shutil
from pathlib import Path
from typing import Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from ldkit.errors import CheckpointError, StorageError
from ldkit.files import write_bytes, write_text
from ldkit.training.state_tensors import StateTensors, TrainState, capture, differences, restore

__all__ = ["FileRecord", "StateRecord", "TrainState", "latest", "read_state", "write_state"]

MODEL_FILE = "model.safetensors"
COMPANION_FILE = "companion.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
FOLDER_NAME = re.compile(r"step_(\d{7,})")
LINES_SHOWN = 12

log = logging.getLogger(__name__)


class FileRecord(BaseModel):
    """What one file of a checkpoint must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: str


class StateRecord(BaseModel):
    """The content of state.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ldkit-state-1"] = "ldkit-state-1"
    step: NonNegativeInt
    optimizer: str
    files: dict[str, FileRecord]


def latest(checkpoints: Path) -> Path | None:
    """Return the complete state of the highest step, `None` where there is none."""
    complete = [folder for folder in _by_step(checkpoints).values() if _is_complete(folder)]
    return complete[-1] if complete else None


def write_state(checkpoints: Path, state: TrainState, *, keep: int) -> Path:
    """Return the folder of the saved state; of the older ones the newest `keep` - 1 stay.

    Older states are removed only after the new one is complete. A state of this very step that
    is complete already is not written again.

    Raises:
        StorageError: The disk is full or not writable; the older states are as they were.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    folder = checkpoints / f"step_{state.step:07d}"
    if not _is_complete(folder):
        _make_way(folder)
        tensors = capture(state)
        files = {MODEL_FILE: tensors.model, OPTIMIZER_FILE: tensors.optimizer}
        if state.companion is not None:
            files[COMPANION_FILE] = tensors.companion
        record = StateRecord(
            step=state.step,
            optimizer=type(state.optimizer).__name__,
            files={name: _write_tensors(folder / name, content) for name, content in files.items()},
        )
        write_text(folder / STATE_FILE, record.model_dump_json(indent=1) + "\n")
    _remove_old(checkpoints, state.step, keep)
    return folder


def read_state(folder: Path, state: TrainState) -> None:
    """Bring the model, its companion, the optimizer and the position to those in `folder`.

    Raises:
        CheckpointError: The folder is foreign, incomplete or damaged, or holds another model or
            optimizer. `state` is then as it was.
    """
    record = _read_record(folder)
    tensors = StateTensors(
        model=_read_tensors(folder, MODEL_FILE, record),
        optimizer=_read_tensors(folder, OPTIMIZER_FILE, record),
        companion=_read_tensors(folder, COMPANION_FILE, record)
        if COMPANION_FILE in record.files
        else {},
    )
    kind = type(state.optimizer).__name__
    if record.optimizer != kind:
        raise CheckpointError(
            f"was trained with {record.optimizer}, but this run uses {kind}.",
            where=str(folder),
            hint="Set optim.kind to what the run began with, or begin a new run.",
        )
    lines = differences(state, tensors)
    if lines:
        shown = lines[:LINES_SHOWN]
        more = [f"... and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
        raise CheckpointError(
            "holds another model:\n" + "\n".join(f"  {line}" for line in [*shown, *more]),
            where=str(folder),
            hint="Resume with the recipe that the run began with, or begin a new run.",
        )
    restore(state, tensors)
    state.step = record.step


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> FileRecord:
    content = safetensors.torch.save(tensors)
    write_bytes(path, content)
    return FileRecord(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _read_record(folder: Path) -> StateRecord:
    path = folder / STATE_FILE
    try:
        return StateRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"is not a complete checkpoint: {STATE_FILE} cannot be read ({error.strerror}).",
            where=str(folder),
            hint="Name the folder of one step, such as runs/NAME/checkpoints/step_0010000.",
        ) from error
    except ValidationError as error:
        raise CheckpointError(
            "is not a state that this version of ldkit has written.",
            where=str(path),
            hint=_remedy(folder),
        ) from error


def _read_tensors(folder: Path, name: str, record: StateRecord) -> dict[str, Tensor]:
    path = folder / name
    promised = record.files.get(name)
    try:
        content = path.read_bytes()
        intact = (
            promised is not None
            and len(content) == promised.bytes
            and hashlib.sha256(content).hexdigest() == promised.sha256
        )
        if intact:
            return safetensors.torch.load(content)
        found = f"{len(content):,} bytes that are not those written"
    except OSError as error:
        found = f"{error.strerror}"
    except SafetensorError as error:
        found = f"{error}"
    raise CheckpointError(f"is damaged: {found}.", where=str(path), hint=_remedy(folder))


def _remedy(folder: Path) -> str:
    return f"Remove {folder.name} and resume again: the run goes on from the state before it."


def _make_way(folder: Path) -> None:
    """Remove what an interrupted save of the same step has left."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"is in the way of a checkpoint and cannot be removed ({error.strerror}).",
            where=str(folder),
            hint="Remove it, then resume.",
        ) from error


def _remove_old(checkpoints: Path, step: int, keep: int) -> None:
    older = {number: folder for number, folder in _by_step(checkpoints).items() if number < step}
    complete = [folder for folder in older.values() if _is_complete(folder)]
    kept = complete[max(len(complete) - keep + 1, 0) :]
    for folder in older.values():
        if folder in kept:
            continue
        try:
            (folder / STATE_FILE).unlink(missing_ok=True)  # first, so that it never lies
            shutil.rmtree(folder)
        except OSError as error:
            log.warning("%s: an old checkpoint cannot be removed (%s)", folder, error.strerror)


def _by_step(checkpoints: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in checkpoints.glob("step_*"):
        match = FOLDER_NAME.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _is_complete(folder: Path) -> bool:
    return (folder / STATE_FILE).is_file()
