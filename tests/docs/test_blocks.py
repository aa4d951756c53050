"""The documentation is executed: code runs, commands exist, generated pages are current."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from ldkit import errors

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LDKIT = re.compile(r"([A-Z_]+=\S+ )*(torchrun .*-m )?(?P<line>ldkit .*)")
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)[^\n]*\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    """Return (page:number, text) for each fenced block of a kind."""
    found = []
    for page in PAGES:
        matches = [m for m in BLOCK.finditer(page.read_text(encoding="utf-8")) if m["kind"] == kind]
        found += [(f"{page.name}:{number}", match["body"]) for number, match in enumerate(matches)]
    return found


@pytest.mark.contract
@pytest.mark.parametrize(("place", "code"), blocks("python"), ids=lambda value: value[:40])
def test_a_python_block_runs(place: str, code: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{place}\n{result.stderr}"


def command_lines() -> list[tuple[str, str]]:
    """Return every `ldkit ...` line of the pages' shell blocks."""
    lines = []
    for kind in ("bash", "console"):
        for place, body in blocks(kind):
            for line in body.splitlines():
                text = line.removeprefix("$ ").split(" #")[0].strip()
                if command := LDKIT.fullmatch(text):
                    lines.append((place, command["line"]))
    return lines


@pytest.mark.contract
@pytest.mark.parametrize(("place", "line"), command_lines(), ids=lambda value: value[:60])
def test_a_command_of_the_pages_exists_with_its_options(place: str, line: str) -> None:
    from ldkit.cli.app import app

    command = get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        known = command.commands
        if words[0].startswith("-"):
            break
        assert words[0] in known, f"{place}: {line}"
        command = known[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    options |= {"--help", "-h"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"{place}: {line}"


@pytest.mark.contract
def test_a_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def error_page() -> str:
    """Return docs/errors.md as the classes of errors.py describe themselves."""
    assert errors.__doc__ is not None
    tree = "\n".join(line[4:] for line in errors.__doc__.splitlines() if line.startswith("    "))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, errors.LdkitError)]
    rows = [f"| `{k.__name__}` | {k.exit_code} | {(k.__doc__ or '').strip()} |" for k in kinds]
    return "\n".join(
        [
            "# Errors and exit codes",
            "",
            "Every message says where, what was found, what was expected and what to do. Commands",
            "show no traceback; `ldkit --debug COMMAND` does. 130 means stopped by Ctrl-C.",
            "",
            "```",
            tree,
            "```",
            "",
            "| error | exit code | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


@pytest.mark.contract
def test_the_page_of_errors_is_what_the_classes_say() -> None:
    page = ROOT / "docs" / "errors.md"
    assert page.read_text(encoding="utf-8") == error_page(), (
        "Write it anew: python -c 'from tests.docs.test_blocks import *; "
        'Path("docs/errors.md").write_text(error_page())\''
    )
