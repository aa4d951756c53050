"""The house rules, held by tools: layers, lint, format, types."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.contract
@pytest.mark.parametrize(
    "command",
    [
        ["lint-imports", "--no-cache"],
        ["ruff", "check", "--no-cache", "ldkit", "tests"],
        ["ruff", "format", "--no-cache", "--check", "ldkit", "tests"],
        ["mypy"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_tool_finds_nothing_to_say(command: list[str]) -> None:
    result = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
