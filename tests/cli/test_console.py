"""Results on a terminal and in a pipe: wrapped at words here, one line a fact there."""

import json
from io import StringIO

import pytest
from rich.console import Console

from ldkit.cli import console
from ldkit.errors import DataError
from ldkit.jobs.facts import Fact

FACTS = {
    "cache": "caches/r101",
    "rows": Fact("171 of the main region, 10.7 a view, and not one more than that", {"main": 171}),
    "columns": Fact("bbox_logits  23.3 KB\ncls_logits    3.1 KB", {"bbox_logits": 23256}),
    "written by": "ldkit",
}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """Both streams as one terminal of 60 columns."""
    shown = StringIO()
    screen = Console(file=shown, force_terminal=True, width=60, color_system=None, highlight=False)
    monkeypatch.setattr(console, "out", screen)
    monkeypatch.setattr(console, "err", screen)
    return shown


@pytest.mark.contract
def test_facts_are_wrapped_at_words_on_a_terminal(terminal: StringIO) -> None:
    console.show_facts(FACTS, as_json=False)
    assert terminal.getvalue() == (
        "cache       caches/r101\n"
        "rows        171 of the main region, 10.7 a view, and not one\n"
        "            more than that\n"
        "columns     bbox_logits  23.3 KB\n"
        "            cls_logits    3.1 KB\n"
        "written by  ldkit\n"
    )


@pytest.mark.contract
def test_a_fact_is_one_line_in_a_pipe_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_facts({"long": "word " * 40 + "end", "n": "1"}, as_json=False)
    assert capsys.readouterr().out == "long  " + "word " * 40 + "end\nn     1\n"


@pytest.mark.contract
def test_machines_get_values_where_people_get_words(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_facts(FACTS, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "cache": "caches/r101",
        "rows": {"main": 171},
        "columns": {"bbox_logits": 23256},
        "written_by": "ldkit",
    }


NAME = "a_student_with_quite_a_long_name"
ROWS = [["teacher", "41.4", *["73.2"] * 5], [NAME, "33.3 ± 0.4", *["64.3"] * 5]]
COLUMNS = ["", "AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.mark.contract
def test_a_table_keeps_its_numbers_on_a_narrow_terminal(terminal: StringIO) -> None:
    console.print_table("AP in percent", COLUMNS, ROWS)
    title, head, first, *more = terminal.getvalue().splitlines()
    assert title == "AP in percent"
    assert head.split() == COLUMNS[1:]
    assert first.split() == ROWS[0]
    assert "33.3 ± 0.4" in more[0]
    assert "".join(line.split(" ")[0] for line in more) == NAME
    assert all(len(line) <= 60 for line in (head, first, *more))
    assert first.rindex("73.2") == more[0].rindex("64.3")


@pytest.mark.contract
def test_a_table_in_a_pipe_is_as_wide_as_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["a " * 60 + "end", "1.0"], ["b", "100.0"]]
    console.print_table("", ["", "AP"], rows)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert lines[1].startswith(rows[0][0])
    assert len({len(line) for line in lines}) == 1  # numbers end in one column


@pytest.mark.contract
def test_an_error_is_a_panel_on_a_terminal_with_all_of_its_text(terminal: StringIO) -> None:
    error = DataError(
        "holds [nothing] of use, and that in a sentence which is longer than a line.\n",
        where="data/train.json",
        hint="Look elsewhere.",
    )
    console.print_error(error)
    top, *rest = terminal.getvalue().splitlines()
    assert top.startswith("╭─ data/train.json ─")
    text = " ".join(" ".join(rest).replace("│", " ").split())
    assert "holds [nothing] of use, and that in a sentence which is longer than a line." in text
    assert "Look elsewhere." in text


@pytest.mark.contract
def test_a_place_too_long_for_the_frame_moves_into_the_panel(terminal: StringIO) -> None:
    where = "/a/folder" * 6 + "/image.jpg"
    console.print_error(DataError("cannot be read.", where=where))
    lines = terminal.getvalue().splitlines()
    assert set(lines[0]) == set("╭─╮")
    shown = "".join(line.strip("│ ") for line in lines)
    assert where in shown
    assert "cannot be read." in shown


@pytest.mark.contract
def test_notes_keep_to_the_side_and_read_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("Taking [the] cache " + "x" * 200)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "Taking [the] cache " + "x" * 200 + "\n"
