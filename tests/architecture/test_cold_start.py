"""Help must come at once: nothing heavy is imported before a job needs it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "numpy", "cv2", "pycocotools", "safetensors")


@pytest.mark.contract
@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "list"], ["distill", "--help"]])
def test_help_and_recipes_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from ldkit.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip().splitlines()[-1] == "[]", result.stderr
