"""The four commands on the front page, as written, where data/coco holds a COCO-layout data set."""

import json
import zipfile
from pathlib import Path

import pytest

from ldkit.cache.reader import CacheReader
from ldkit.models.checkpoint_file import read_model
from ldkit.recipe.load import load_recipe
from tests.cli.conftest import Shell
from tests.jobs.tiny import draw_scenes

SIZES = ((64, 64), (64, 96))
SMALL = {
    "data.workers": "0",
    "views.short_side_px": "64",
    "views.long_side_max_px": "96",
    "views.count": "null",
    "schedule.max_steps": "1",
    "train.batch_size": "2",
    "eval.every_epochs": "null",
}
NARROW = {
    "backbone.pretrained": "false",
    "fpn.channels": "32",
    "head.convs": "1",
    "head.norm_groups": "8",
}


def small(section: str) -> list[str]:
    """The same recipes at a size that a test can pay for."""
    values = SMALL | {f"{section}.{key}": value for key, value in NARROW.items()}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The names of COCO 2017: train2017, val2017, test2017 and their annotation files."""
    monkeypatch.chdir(tmp_path)
    root = Path("data/coco")
    draw_scenes(root, SIZES, SIZES)
    for split in ("train", "val"):
        (root / split).rename(root / f"{split}2017")
        annotations = root / "annotations" / f"instances_{split}.json"
        annotations.rename(root / "annotations" / f"instances_{split}2017.json")
    listing = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    del listing["annotations"]
    (root / "test2017").mkdir()
    for image in listing["images"]:
        name = image["file_name"]
        (root / "test2017" / name).write_bytes((root / "val2017" / name).read_bytes())
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(listing))
    return tmp_path


@pytest.mark.story
@pytest.mark.usefixtures("coco")
def test_four_commands_lead_from_coco_to_the_test_server(ldkit: Shell) -> None:
    said = ldkit("teacher", "train", *small("model"))
    assert said.code == 0, said.err
    assert said.out == "run    runs/gfl_r101dcn\nmodel  r101dcn.pt\n"
    teacher = read_model(Path("r101dcn.pt"))
    assert teacher.detector["backbone"]["deform"] == {"stages": [2, 3, 4], "version": 1}

    said = ldkit("cache-logits", "--teacher", "r101dcn.pt", *small("student"))
    assert said.code == 0, said.err
    assert "Taking the recipe coco/ld_r18_r101dcn, for the teacher r101dcn." in said.err
    cache = CacheReader.open_(Path("caches/r101dcn"))
    assert cache.plan.sources.weights.fingerprint == teacher.fingerprint

    said = ldkit("distill", "--student", "r18", *small("student"))
    assert said.code == 0, said.err
    assert "Taking the cache caches/r101dcn, the only sealed one." in said.err
    assert "Taking the recipe coco/ld_r18_r101dcn for the teacher r101dcn." in said.err
    assert said.out == "run    runs/ld_r18_r101dcn\nmodel  runs/ld_r18_r101dcn/model.pt\n"
    student = read_model(Path("runs/ld_r18_r101dcn/model.pt"))
    assert student.origin["cache"] == cache.fingerprint
    assert not [name for name in student.weights if "teacher" in name]

    said = ldkit("eval")
    assert said.code == 0, said.err
    assert "Evaluating runs/ld_r18_r101dcn/model.pt, the newest finished run." in said.err
    assert "AP  AP50  AP75  APs  APm  APl  AR100" in said.out

    said = ldkit("eval", "--split", "test-dev", "--json")
    assert said.code == 0, said.err
    file = Path(json.loads(said.out)["file"])
    assert file.name == "detections_test-dev2017_ld_r18_r101dcn_results.zip"
    with zipfile.ZipFile(file) as content:
        assert content.namelist() == ["detections_test-dev2017_ld_r18_r101dcn_results.json"]


@pytest.mark.contract
@pytest.mark.usefixtures("coco")
def test_other_teachers_and_students_get_names_of_their_own(ldkit: Shell) -> None:
    words = ("teacher", "train", "--arch", "r18", *small("model"), "--dry-run", "--json")
    facts = json.loads(ldkit(*words).out)
    assert (facts["run"], facts["model"]) == ("runs/gfl_r18", "r18.pt")
    assert facts["images"] == {"count": 2, "of": 2}
    assert facts["steps"] == {"count": 1, "per_epoch": 2}
    mine = ("teacher", "train", "coco/gfl_r18", "--out", "mine.pt")
    facts = json.loads(ldkit(*mine, *small("model"), "--dry-run", "--json").out)
    assert (facts["run"], facts["model"]) == ("runs/gfl_r18", "mine.pt")


@pytest.mark.contract
@pytest.mark.usefixtures("coco")
def test_the_built_in_recipes_name_the_files_of_coco() -> None:
    for name in ("coco/gfl_r101dcn", "coco/ld_r18_r101dcn"):
        data = load_recipe(name).recipe.data.model_dump()
        for split in (data["train"], data["val"], data["test_dev"]):
            for part in ("images", "annotations"):
                assert Path(data["root"], split[part]).exists()
