"""One mistake of a user: what is spoilt, which command meets it, and what it must say.

A table of these is a test: the message names the place, what was found and what to do; the exit
code is that of its kind; nothing on disk changes but what `leaves` allows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cli.conftest import Shell
from tests.jobs.tiny import snapshot

TRAIN = ("teacher", "train", "teacher.yaml", "--set", "schedule.max_steps=4")
BUILD = ("cache-logits", "student.yaml", "--out", "caches/new")
DISTILL = ("distill", "student.yaml", "--set", "schedule.max_steps=2")


@dataclass(frozen=True)
class Mistake:
    """`says` are parts of the message, in their order."""

    words: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    spoil: Callable[[], object] = lambda: None
    leaves: str = ""


def meet(mistake: Mistake, ldkit: Shell) -> None:
    """Make the mistake in the current folder, and check everything about the answer."""
    mistake.spoil()
    home = Path.cwd()
    before = snapshot(home)
    said = ldkit(*mistake.words)
    text = said.err
    assert said.code == mistake.code, text
    assert said.out == ""
    assert "Traceback" not in text
    position = 0
    for part in mistake.says:
        assert part in text[position:], f"{part!r} is not told here:\n{text[position:]}"
        position = text.index(part, position) + len(part)
    after = snapshot(home)
    new = {name for name in after if name not in before}
    assert {name: content for name, content in after.items() if name in before} == before
    assert not [name for name in new if not (mistake.leaves and name.startswith(mistake.leaves))]
    assert not list(home.rglob("*.tmp"))
