"""The one place where errors become messages and exit codes; and what every command keeps to."""

import json
import os
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from ldkit import __version__, errors
from ldkit.cli.app import app, main
from ldkit.errors import LdkitError
from ldkit.jobs import cache_info
from tests.cli.conftest import Shell
from tests.jobs.tiny import snapshot

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.contract
@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, LdkitError)])
def test_an_error_of_the_user_is_a_message_and_the_exit_code_of_its_kind(
    kind: type[LdkitError], ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> None:
        raise kind("holds nothing [of] use.", where="here", hint="Look elsewhere.")

    monkeypatch.setattr(cache_info, "facts", fail)
    said = ldkit("cache", "info", "here")
    assert (said.code, said.out) == (kind.exit_code, "")
    assert said.err == "here: holds nothing [of] use.\nLook elsewhere.\n"
    said = ldkit("--debug", "cache", "info", "here")
    assert said.code == kind.exit_code
    assert said.err.startswith("Traceback (most recent call last):\n")
    assert said.err.endswith("\nhere: holds nothing [of] use.\nLook elsewhere.\n")


@pytest.mark.contract
def test_an_error_of_the_programmer_keeps_its_traceback(
    ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> None:
        raise ValueError("never to be seen")

    monkeypatch.setattr(cache_info, "facts", fail)
    with pytest.raises(ValueError, match="never to be seen"):
        ldkit("cache", "info", "here")


@pytest.mark.contract
def test_version_and_help_end_well(ldkit: Shell) -> None:
    said = ldkit("--version")
    assert (said.code, said.out, said.err) == (0, f"ldkit {__version__}\n", "")
    assert ldkit("--help").code == ldkit("-h").code == 0


@pytest.mark.contract
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("distil", "Did you mean 'distill'?"),
        ("teacher trian", "Did you mean 'train'?"),
        ("cache-logit", "Did you mean 'cache-logits'"),
        ("eval --splitt val", "No such option: --splitt"),
        ("cache info", "Missing argument 'PATH'"),
        ("data synth x --train 0", "Invalid value for '--train'"),
        ("data synth x --size 63", "Invalid value for '--size'"),
        ("quickstart --seeds 0", "Invalid value for '--seeds'"),
        ("distill --dry-run=maybe", "--dry-run"),
    ],
)
def test_a_command_that_cannot_be_read_is_a_usage_error(
    words: str, says: str, ldkit: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = ldkit(*shlex.split(words))
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert "Traceback" not in said.err
    assert not any(tmp_path.iterdir())


@pytest.mark.contract
def test_waiting_threads_do_not_burn_cores(monkeypatch: pytest.MonkeyPatch, ldkit: Shell) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY")
    ldkit("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    ldkit("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.contract
def test_the_installed_command_is_main() -> None:
    scripts = entry_points(group="console_scripts", name="ldkit")
    assert [script.load() for script in scripts] == [main]


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command of the tree by its words."""
    found = {}
    waiting = [("", get_command(app))]
    while waiting:
        words, command = waiting.pop()
        if isinstance(command, typer.core.TyperGroup):
            waiting += [(f"{words} {name}".strip(), c) for name, c in command.commands.items()]
        else:
            found[words] = command
    return found


@pytest.mark.contract
@pytest.mark.parametrize("words", sorted(commands()))
def test_the_help_of_a_command_explains_all_of_it(
    words: str, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    command = commands()[words]
    said = ldkit(*words.split(), "--help")
    assert (said.code, said.err) == (0, "")
    shown = " ".join(said.out.replace("│", " ").split())
    summary = (command.help or "").partition("\n")[0]
    assert summary.endswith(".")
    assert len(summary) <= 100
    assert summary in shown
    assert len(said.out.splitlines()) < 40
    for parameter in command.params:
        text = getattr(parameter, "help", "") or ""
        assert text, f"{parameter.name} is not explained"
        assert parameter.opts[0] in shown or parameter.metavar in shown


@pytest.mark.contract
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words",
    [
        "recipe list",
        "recipe show teacher.yaml",
        "recipe check teacher.yaml student.yaml",
        "recipe diff teacher.yaml student.yaml",
        "recipe schema optim",
        "data check data/train data/annotations/instances_train.json",
        "data synth drawn --train 1 --val 1 --size 64",
        "cache info caches/tiny",
        "teacher train teacher.yaml --dry-run",
        "teacher train teacher.yaml --set schedule.max_steps=1",
        "cache-logits student.yaml --dry-run",
        "cache-logits student.yaml --out caches/other",
        "distill student.yaml --dry-run",
        "distill student.yaml --set schedule.max_steps=1",
        "distill student.yaml --online --set schedule.max_steps=1",
        "eval t.pt",
    ],
)
def test_json_is_all_that_is_printed(words: str, ldkit: Shell) -> None:
    said = ldkit(*words.split(), "--json")
    assert said.code == 0, said.err
    assert isinstance(json.loads(said.out), dict | list)


@pytest.mark.contract
@pytest.mark.parametrize(
    "words",
    [
        "teacher train teacher.yaml",
        "teacher train teacher.yaml --out new/model.pt",
        "cache-logits student.yaml",
        "cache-logits student.yaml --out caches/other",
        "distill student.yaml",
        "distill student.yaml --online",
    ],
)
def test_a_dry_run_writes_nothing(words: str, home: Path, ldkit: Shell) -> None:
    before = snapshot(home)
    folders = sorted(home.rglob("*"))
    said = ldkit(*words.split(), "--dry-run")
    assert said.code == 0, said.err
    assert said.out
    assert snapshot(home) == before
    assert sorted(home.rglob("*")) == folders
