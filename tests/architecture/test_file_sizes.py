"""One file tells one story: none is too long, none is a drawer for everything."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ldkit"
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.contract
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_source_file_stays_below_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.contract
def test_no_file_has_a_name_that_says_nothing() -> None:
    drawers = {"utils.py", "common.py", "helpers.py", "misc.py"}
    assert not [path for path in FILES if path.name in drawers]
