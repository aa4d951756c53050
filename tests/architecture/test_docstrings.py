"""Every public function of the numerics says what it returns and carries checked shapes."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ldkit"
NUMERICS = sorted([*(PACKAGE / "ops").glob("*.py"), *(PACKAGE / "objectives").glob("*.py")])


def public_functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [node for node in functions if not node.name.startswith("_")]


@pytest.mark.contract
@pytest.mark.parametrize("path", NUMERICS, ids=lambda path: path.stem)
def test_public_numerics_open_with_what_they_return(path: Path) -> None:
    for function in public_functions(path):
        text = ast.get_docstring(function) or ""
        assert text.split()[:1] == ["Return"], f"{path.name}: {function.name}: {text[:60]!r}"


@pytest.mark.contract
@pytest.mark.parametrize("path", NUMERICS, ids=lambda path: path.stem)
def test_functions_of_the_numerics_fit_a_screen(path: Path) -> None:
    for function in public_functions(path):
        assert (function.end_lineno or 0) - function.lineno < 50, f"{path.name}: {function.name}"
