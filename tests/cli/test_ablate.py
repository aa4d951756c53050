"""`ldkit distill --ablate`: what it shows, plans, refuses, and leaves when it is stopped."""

import io
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from ldkit.cli import ablation, console
from ldkit.jobs import ablate
from ldkit.jobs.ablate_table import Outcome
from ldkit.jobs.scored_runs import Job, Told, trained_and_scored
from tests.cli.conftest import Shell
from tests.cli.mistakes import Mistake, meet
from tests.cli.test_ctrl_c import AGAIN, COMMAND, LONG, Child, press
from tests.jobs.tiny import snapshot

ABLATE = ("distill", "student.yaml", "--set", "schedule.max_steps=2", "--ablate", "main")
AT_ONCE = ("--device", "cpu", "--at-once", "2")
FOLDER = Path("runs/student_ablation")


def in_this_process(jobs: Sequence[Job], at_once: int) -> Generator[Told, None, None]:
    assert at_once == 2
    for job in jobs:
        for message in trained_and_scored(job):
            yield job.stage, message


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "in_processes", in_this_process)


@pytest.mark.story
@pytest.mark.usefixtures("home", "one_process")
def test_one_command_ends_with_a_table_and_says_where_all_of_it_lies(ldkit: Shell) -> None:
    said = ldkit(*ABLATE, "--seeds", "2", *AT_ONCE)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "student on val, AP in percent (2 seeds)"
    assert lines[1].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert [lines[n].split()[0] for n in (2, 3)] == ["plain", "main"]
    assert "±" in lines[3]
    assert lines[5] == "Difference to plain, seed by seed"
    assert lines[7].startswith("main ")
    assert lines[-2:] == [f"runs   {FOLDER}/ARM_seedN", f"table  {FOLDER}/ablation.json"]
    for run in ("plain_seed0", "plain_seed1", "main_seed0", "main_seed1"):
        assert (FOLDER / run / "model.pt").is_file()
    assert "main, seed 1: 2/2 steps" in said.err


@pytest.mark.contract
@pytest.mark.usefixtures("home", "one_process")
def test_machines_get_the_same_as_fractions_and_again_what_is_finished(ldkit: Shell) -> None:
    said = ldkit(*ABLATE, *AT_ONCE, "--json", "--resume")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert document == json.loads((FOLDER / "ablation.json").read_text())
    assert [arm["arm"] for arm in document["arms"]] == ["plain", "main"]
    before = {path: path.stat().st_mtime_ns for path in FOLDER.glob("*_seed0/**/*")}
    said = ldkit(*ABLATE, *AT_ONCE, "--json")
    assert json.loads(said.out) == document
    assert said.err == "Taking 2 runs of 2 as they are: finished before.\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.contract
@pytest.mark.usefixtures("home", "one_process")
def test_a_dry_run_lists_arms_by_seeds_and_what_is_done(ldkit: Shell) -> None:
    assert ldkit(*ABLATE, *AT_ONCE).code == 0
    before = snapshot(Path())
    words = (*ABLATE, "--ablate", "t3:objective.localization.main.temperature=3", "--seeds", "2")
    said = ldkit(*words, "--dry-run")
    assert [line.split() for line in said.out.splitlines()] == [
        ["arm", "seed", "steps", "state", "run"],
        ["plain", "0", "2", "finished", f"{FOLDER}/plain_seed0"],
        ["plain", "1", "2", "to", "do", f"{FOLDER}/plain_seed1"],
        ["main", "0", "2", "finished", f"{FOLDER}/main_seed0"],
        ["main", "1", "2", "to", "do", f"{FOLDER}/main_seed1"],
        ["t3", "0", "2", "to", "do", f"{FOLDER}/t3_seed0"],
        ["t3", "1", "2", "to", "do", f"{FOLDER}/t3_seed1"],
    ]
    plan = json.loads(ldkit(*words, "--dry-run", "--json").out)
    assert plan[0] == {
        "arm": "plain",
        "seed": 0,
        "run": f"{FOLDER}/plain_seed0",
        "steps": 2,
        "state": "finished",
    }
    assert snapshot(Path()) == before


@pytest.mark.contract
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "mistake",
    [
        Mistake(
            ("distill", "student.yaml", "--ablate", "main,vrl"),
            2,
            ("--ablate: 'vrl' is no term. Did you mean `vlr`?", "Terms, joined by +: main, vlr"),
        ),
        Mistake(
            ("distill", "student.yaml", "--ablate", "kd"),
            2,
            (
                "--ablate: kd: the recipe student has objective.classification_kd.main = null",
                "`--set 'objective.classification_kd.main={kind: binary}'`",
            ),
        ),
        Mistake(
            ("distill", "student.yaml", "--ablate", "t2:objective.localization.main.temp=2"),
            2,
            ("--ablate t2: 1 problem", "objective.localization.main.temp", "Nothing was started"),
        ),
        Mistake(
            ("distill", "student.yaml", "--seeds", "3"),
            2,
            ("--seeds: counts only with --ablate.", "`--ablate main,all`", "`--set seed=1`"),
        ),
        Mistake(
            ("distill", "student.yaml", "--at-once", "3"),
            2,
            ("--at-once: counts only with --ablate.",),
        ),
        Mistake(
            (*ABLATE, "--out", "s.pt"),
            2,
            ("--out s.pt: is one file, but --ablate trains several", "Leave it out"),
        ),
        Mistake(
            (*ABLATE, "--set", "views.short_side_px=[32, 64]", "--seeds", "2"),
            2,
            ("student, --seeds 2: draws the sizes", "[32, 64]", "Take one seed"),
        ),
        Mistake(
            (*ABLATE, "--ablate", "x:objective.assign.topk=7"),
            4,
            ("caches/tiny: ", "topk"),
        ),
    ],
    ids=lambda mistake: mistake.says[0],
)
def test_what_cannot_be_compared_is_told_before_anything_starts(
    mistake: Mistake, ldkit: Shell
) -> None:
    meet(mistake, ldkit)


@pytest.mark.contract
@pytest.mark.usefixtures("home", "one_process")
def test_a_changed_recipe_needs_another_name(ldkit: Shell) -> None:
    assert ldkit(*ABLATE, *AT_ONCE).code == 0
    meet(
        Mistake(
            (*ABLATE, "--set", "optim.lr=0.5"),
            2,
            (
                f"{FOLDER}/plain_seed0: was begun with another recipe",
                "ldkit recipe diff",
                "`--set name=...`",
            ),
        ),
        ldkit,
    )
    assert ldkit(*ABLATE, "--set", "optim.lr=0.5", "--set", "name=faster", *AT_ONCE).code == 0
    assert Path("runs/faster_ablation/ablation.json").is_file()


@pytest.mark.story
@pytest.mark.usefixtures("home")
def test_ctrl_c_leaves_runs_that_the_same_command_goes_on_with(ldkit: Shell) -> None:
    words = ("distill", "student.yaml", "--ablate", "main", *AT_ONCE, *LONG)
    child = Child(COMMAND, *words)
    child.wait_for("main, seed 0: 0/")
    child.wait_for("plain, seed 0: 0/")
    press(child, AGAIN)
    assert not list(FOLDER.glob("*/model.pt"))
    assert not (FOLDER / "ablation.json").exists()
    plan = json.loads(ldkit(*words, "--dry-run", "--json").out)
    assert [run["arm"] for run in plan] == ["plain", "main"]
    assert all(run["state"] == "to do" or run["state"].startswith("goes on") for run in plan)
    assert list(FOLDER.glob("*/checkpoints/step_*/state.json"))


def shown(monkeypatch: pytest.MonkeyPatch, width: int | None, result: Outcome) -> list[str]:
    """Return the lines of a table on a terminal of a width, or in a pipe."""
    file = io.StringIO()
    out = Console(
        file=file,
        width=width,
        force_terminal=width is not None,
        color_system=None,
        highlight=False,
        _environ={**os.environ, "TERM": "xterm"},
    )
    monkeypatch.setattr(console, "out", out)
    ablation._show_table(result)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.contract
def test_errors_stand_beside_their_means_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    name = "main+vlr+kd+imitation+score_cls"
    rows = [["plain", *["35.1\n±0.6"] * 7], [name, *["45.2\n±0.6"] * 7]]
    result = Outcome("mine", columns, rows, [[name, *["+10.1\n±0.3"] * 7]], "Caveat.", {})
    wide = shown(monkeypatch, 120, result)
    assert wide == shown(monkeypatch, None, result)
    assert wide[2].split() == ["plain", *["35.1", "±0.6"] * 7]
    assert wide[5] == "Difference to plain, seed by seed"
    narrow = shown(monkeypatch, 80, result)
    assert narrow[2].split() == ["plain", *["35.1"] * 7]
    assert narrow[3].split() == ["±0.6"] * 7
    assert narrow[4].split() == [name, *["45.2"] * 7]
    assert max(map(len, narrow)) <= 80
    assert max(map(len, wide)) <= 120
