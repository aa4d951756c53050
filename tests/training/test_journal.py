import json
import signal
from pathlib import Path

import pytest

from ldkit.errors import DataError, StorageError
from ldkit.training.events import (
    Contributions,
    Evaluated,
    Event,
    Finished,
    Saved,
    Started,
    Step,
)
from ldkit.training.journal import Journal, read_journal


def step(number: int) -> Step:
    return Step(
        step=number,
        epoch=number // 4,
        lr=0.1 / number,
        terms={"cls": 0.1 * number, "box": 1 / 3},
        grad_norm=None if number % 2 else 2.5,
        seconds=0.5,
        wait_seconds=0.1,
        images=2,
    )


def written(path: Path, events: list[Event]) -> None:
    with Journal(path) as journal:
        for event in events:
            journal.write(event)


EVENTS = [
    Started(0, 8, 4),
    step(1),
    step(2),
    Saved(2, "runs/toy/checkpoints/step_0000002"),
    step(3),
    Contributions(4, {"cls": 0.75, "box": 0.25}, {"cls": 1 / 3, "box": 0.0}),
    step(4),
    Evaluated(4, {"ap": 0.3, "ap_large": None}, 1.5),
    Finished(4, 9.75),
]


@pytest.mark.law
def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    written(path, EVENTS)
    assert list(read_journal(path)) == EVENTS


@pytest.mark.contract
def test_each_line_is_one_json_object_and_there_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        journal.write(step(1))
        (line,) = path.read_text().splitlines()
    assert json.loads(line) == {
        "event": "step",
        "step": 1,
        "epoch": 0,
        "lr": 0.1,
        "terms": {"cls": 0.1, "box": 1 / 3},
        "grad_norm": None,
        "seconds": 0.5,
        "wait_seconds": 0.1,
        "images": 2,
    }


@pytest.mark.contract
def test_events_of_one_call_are_one_line_each_and_kept_together_from_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    append = Journal._append

    def interrupted(journal: Journal, lines: bytes) -> None:
        signal.raise_signal(signal.SIGINT)
        append(journal, lines)

    monkeypatch.setattr(Journal, "_append", interrupted)
    with Journal(path) as journal, pytest.raises(KeyboardInterrupt):
        journal.write(*EVENTS[5:7])
    assert list(read_journal(path)) == EVENTS[5:7]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.contract
def test_a_journal_of_before_contributions_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"event": "started", "step": 0, "total_steps": 8, "steps_per_epoch": 4}\n'
        '{"event": "step", "step": 1, "epoch": 0, "lr": 0.1, "terms": {"cls": 0.5}, '
        '"grad_norm": null, "seconds": 0.5, "wait_seconds": 0.1, "images": 2}\n'
        '{"event": "evaluated", "step": 1, "figures": {"ap": 0.5}, "seconds": 1.0}\n'
        '{"event": "saved", "step": 1, "path": "runs/x/checkpoints/step_0000001"}\n'
        '{"event": "finished", "step": 1, "seconds": 2.0}\n'
    )
    kinds = [type(event) for event in read_journal(path)]
    assert kinds == [Started, Step, Evaluated, Saved, Finished]


@pytest.mark.contract
def test_a_journal_torn_at_any_byte_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, EVENTS[:3])
    content = path.read_bytes()
    ends = [number + 1 for number, byte in enumerate(content) if byte == ord("\n")]
    cuts = {
        *range(0, len(content), 17),
        *ends,
        *(end - 1 for end in ends),
        *(end - 2 for end in ends),
    }
    for length in sorted(cuts):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)
        assert list(read_journal(path)) == EVENTS[:whole]


@pytest.mark.contract
def test_a_resumed_journal_tells_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, EVENTS)
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    with Journal(path, step=2) as journal:
        for event in (Started(2, 8, 4), step(3), step(4)):
            journal.write(event)
    events = list(read_journal(path))
    assert events == [*EVENTS[:4], Started(2, 8, 4), step(3), step(4)]
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3, 4]


@pytest.mark.contract
def test_a_journal_without_anything_to_drop_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, EVENTS)
    inode = path.stat().st_ino
    Journal(path, step=4).close()
    assert path.stat().st_ino == inode
    assert list(read_journal(path)) == EVENTS


@pytest.mark.contract
@pytest.mark.parametrize(
    "line", ["not json", "[1, 2]", '{"event": "leap", "step": 3}', '{"event": "saved", "step": 3}']
)
def test_a_broken_line_in_the_middle_is_reported_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, EVENTS[:2])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as caught:
        list(read_journal(path))
    assert str(caught.value) == (
        f"{path}, line 3: is not an event of this version of ldkit.\n"
        "Remove the line to read the rest of the journal."
    )


@pytest.mark.contract
def test_a_missing_journal_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(read_journal(tmp_path / "metrics.jsonl"))


@pytest.mark.contract
def test_a_folder_in_place_of_the_journal_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not be written: Is a directory"):
        Journal(tmp_path)


@pytest.mark.contract
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported_with_the_way_on() -> None:
    with Journal(Path("/dev/full")) as journal, pytest.raises(StorageError) as caught:
        journal.write(step(1))
    assert "No space left on device" in str(caught.value)
    assert "the run goes on from its last checkpoint" in str(caught.value)


@pytest.mark.contract
def test_a_value_that_json_cannot_hold_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with Journal(tmp_path / "metrics.jsonl") as journal, pytest.raises(ValueError, match="JSON"):
        journal.write(Evaluated(1, {"ap": float("nan")}, 0.0))
