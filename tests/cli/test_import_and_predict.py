"""`ldkit teacher import` and `ldkit predict`, as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ldkit.cli.app import app
from ldkit.errors import CheckpointError, UsageError
from tests.models.mmdet_files import newer_file, older_file, published_state, save, small_detector

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, one without names of classes, and an image."""
    made = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    state = published_state(small_detector())
    state["bbox_head.gfl_cls.bias"] += 4  # so that it finds something
    save(older_file(state), made / "named.pth", is_zip=False)
    save(newer_file(state, None), made / "nameless.pth")
    (made / "text.pth").write_text("this is no checkpoint")
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    assert cv2.imwrite(str(made / "image.png"), noise)
    return made


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.mark.story
def test_a_published_checkpoint_is_imported_and_finds_boxes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = run("teacher", "import", str(folder / "named.pth")).splitlines()
    shown = {line.split()[0]: line for line in lines}
    assert "resnet18" in shown["backbone"]
    assert "9 bins (reg_max 8)" in shown["head"]
    assert shown["model"].split() == ["model", "r18.pt"]
    small = ("--set", "views.short_side_px=120", "--set", "views.long_side_max_px=160")
    image = str(folder / "image.png")
    found = json.loads(run("predict", "r18.pt", image, "--json", "--score", "0.4", *small))
    assert [each["image"] for each in found] == [image]
    assert found[0]["boxes"][0].keys() == {"class", "score", "box"}
    assert found[0]["boxes"][0]["class"] in ("cat", "dog", "rabbit")
    table = run("predict", "r18.pt", image, "--score", "0.4", "--draw", "pictures", *small)
    assert table.splitlines()[0] == image
    assert table.splitlines()[1].split() == ["score", "x1", "y1", "x2", "y2"]
    assert cv2.imread("pictures/image.png").shape == (120, 160, 3)
    assert run("predict", "r18.pt", image, "--score", "1", *small).splitlines() == [
        f"{image}: nothing above a score of 1"
    ]


@pytest.mark.contract
def test_import_speaks_json(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    told = json.loads(
        run(
            "teacher",
            "import",
            str(folder / "nameless.pth"),
            "--out",
            str(out),
            "--json",
            "--classes",
            "x,y,z",
        )
    )
    assert told["model"] == str(out)
    assert told["from"]["form"] == "3.x"
    assert told["classes"] == ["x", "y", "z"]
    assert told["backbone"]["name"] == "resnet18"
    assert out.is_file()


@pytest.mark.contract
def test_what_cannot_be_imported_is_told(folder: Path, tmp_path: Path) -> None:
    nameless, out = str(folder / "nameless.pth"), str(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="does not say what its 3 classes are called"):
        run("teacher", "import", nameless, "--out", out)
    with pytest.raises(UsageError, match="names 2 classes"):
        run("teacher", "import", nameless, "--out", out, "--classes", "x,y")
    with pytest.raises(UsageError, match=r"ends in \.pt or \.safetensors"):
        run("teacher", "import", nameless, "--out", str(tmp_path / "x.pth"))
    with pytest.raises(CheckpointError, match="no file of torch begins with b'this is no c'"):
        run("teacher", "import", str(folder / "text.pth"), "--out", out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.contract
def test_a_mistake_ends_in_a_message_and_the_exit_code_of_its_kind(folder: Path) -> None:
    command = [sys.executable, "-m", "ldkit", "teacher", "import", str(folder / "text.pth")]
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == CheckpointError.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith(f"{folder / 'text.pth'}: is not a checkpoint of the")
    assert "Traceback" not in result.stderr


@pytest.mark.contract
@pytest.mark.parametrize("command", [["predict"], ["teacher", "import"]])
def test_help_of_the_commands_imports_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys\n"
        "from ldkit.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'cv2') if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr.strip().splitlines()[-1] == "[]", result.stderr
