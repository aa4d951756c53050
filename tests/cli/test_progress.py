"""Stages that run: bars on a terminal, plain lines elsewhere, and a job that is always closed."""

from collections.abc import Generator
from io import StringIO

import pytest
from rich.console import Console

from ldkit.cli import console, progress
from ldkit.jobs.progress import Message, Note, Progress
from ldkit.training.events import Contributions, Evaluated, Finished, Saved, Started, Step


def step(number: int) -> Step:
    return Step(
        step=number,
        epoch=0,
        lr=0.1,
        terms={"cls": 1.0, "box": 0.25},
        grad_norm=None,
        seconds=0.1,
        wait_seconds=0.0,
        images=2,
    )


def training() -> Generator[Message, None, str]:
    yield Started(0, 1200, 600)
    for number in range(1, 1201):
        yield step(number)
    yield Progress(40, 40, "images")
    yield Evaluated(1200, {"ap": 0.4137}, 1.0)
    yield Saved(1200, "runs/x/checkpoints/step_0001200")
    yield Note("Boxes left out: 3 [tiny].")
    yield Finished(1200, 9.0)
    return "done"


@pytest.mark.contract
def test_plain_lines_tell_the_beginning_the_end_and_what_is_worth_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert progress.show("r18", training()) == "done"
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == "r18: 0/1,200 steps"
    assert lines[-4] == "r18: 1,200/1,200 steps  loss 1.250"
    assert lines[-3:] == [
        "r18, images: 40/40 images",
        "r18: AP 41.4 after step 1,200",
        "Boxes left out: 3 [tiny].",
    ]


@pytest.mark.contract
def test_an_evaluation_without_objects_has_no_ap(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> Generator[Message, None, None]:
        yield Evaluated(4, {"ap": None}, 1.0)

    progress.show("r18", job())
    assert capsys.readouterr().err == "r18: AP - after step 4\n"


@pytest.mark.contract
def test_contributions_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> Generator[Message, None, None]:
        shares = {"cls": 0.414, "box": 0.3, "dfl": 0.28, "ld_main": 0.006, "ld_vlr": 0.0}
        norms = {"cls": 0.8, "box": 1.23, "dfl": 0.0123, "ld_main": 4.2e-7, "ld_vlr": 0.0}
        yield Contributions(1500, shares, norms)
        yield Contributions(2000, {"cls": 0.0, "box": 1.0}, {"cls": 12345.0, "box": 1.5e7})

    progress.show("r18", job())
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "r18: step 1,500  cls 41 % |g| 0.80 · box 30 % |g| 1.2 · dfl 28 % |g| 0.012 · "
        "ld_main 1 % |g| 4.2e-07 · ld_vlr 0 % |g| 0"
    )
    assert second == "r18: step 2,000  cls 0 % |g| 12345 · box 100 % |g| 1.5e+07"


@pytest.mark.contract
def test_bars_stand_below_each_other_whatever_the_stages_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = StringIO()
    screen = Console(file=shown, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress, "err", screen)
    monkeypatch.setattr(console, "err", screen)
    long = "a_student_with_a_name_that_takes_more_than_its_part_of_the_line"

    def job() -> Generator[tuple[str, Message], None, None]:
        for stage in ("r18", long):
            yield stage, Started(0, 1200, 600)
            for number in range(1, 1201):
                yield stage, step(number)

    progress.show_stages(job())
    written = shown.getvalue()
    last_frame = written[written.rindex("r18 ") :].partition("\x1b")[0]
    lines = last_frame.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].index("━") == lines[1].index("━")
    assert lines[0].index("1200/1200") == lines[1].index("1200/1200")
    assert lines[0].rstrip().endswith("loss 1.250")
    assert "steps/s" in lines[0]
    assert "".join(line.split(" ")[0] for line in lines[1:]) == long


@pytest.mark.contract
def test_a_job_is_closed_before_an_interrupt_goes_on() -> None:
    closed = []

    def job() -> Generator[Message, None, None]:
        try:
            yield Note("working")
            raise KeyboardInterrupt
        finally:
            closed.append("job")

    def stages() -> Generator[tuple[str, Message], None, None]:
        try:
            for message in job():
                yield "stage", message
        finally:
            closed.append("stages")

    with pytest.raises(KeyboardInterrupt):
        progress.show("stage", job())
    with pytest.raises(KeyboardInterrupt):
        progress.show_stages(stages())
    assert closed == ["job", "job", "stages"]
