"""`ldkit data`: what is in a data set, and one to try things with."""

import json
from pathlib import Path

import pytest

from ldkit.data.shapes import LEAST_SIZE_PX
from tests.cli.conftest import Shell

CHECK = ("data", "check", "data/train", "data/annotations/instances_train.json")


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_check_counts_images_boxes_and_classes(ldkit: Shell) -> None:
    document = json.loads(Path("data/annotations/instances_train.json").read_text())
    names = {each["id"]: each["name"] for each in document["categories"]}
    counts = dict.fromkeys(names.values(), 0)
    for row in document["annotations"]:
        counts[names[row["category_id"]]] += 1
    shown = json.loads(ldkit(*CHECK, "--json").out)
    assert shown["images"] == {"count": 7, "without_boxes": 0}
    assert shown["boxes"] == {"count": len(document["annotations"]), "crowds": 0}
    assert sum(shown["sizes"].values()) == len(document["annotations"])
    assert shown["left_out"] == []
    assert shown["classes"] == 3
    assert shown["boxes_of_class"] == counts
    lines = ldkit(*CHECK).out.splitlines()
    assert lines[0] == "images          7 (0 without boxes)"
    assert [line.split()[-2:] for line in lines[-3:]] == [[n, str(c)] for n, c in counts.items()]


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_check_says_what_training_leaves_out(ldkit: Shell) -> None:
    path = Path("data/annotations/instances_train.json")
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"][2] = 0.5
    path.write_text(json.dumps(document))
    note = "Boxes left out: 1 without area or with a side below one pixel, as published."
    assert f"left out        {note}\n" in ldkit(*CHECK).out
    assert json.loads(ldkit(*CHECK, "--json").out)["left_out"] == [note]


@pytest.mark.contract
def test_synth_says_what_it_drew_and_where(
    tmp_path: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("data", "synth", "drawn", "--train", "2", "--val", "1", "--size", str(LEAST_SIZE_PX))
    said = ldkit(*words)
    assert said.out == (
        "training images    2 in drawn/train\n"
        "validation images  1 in drawn/val\n"
        "annotations        drawn/annotations\n"
    )
    assert len(list(Path("drawn/train").iterdir())) == 2
    shown = json.loads(ldkit(*words, "--json").out)
    assert shown["training_images"] == {"count": 2, "folder": "drawn/train"}
    assert ldkit("data", "check", "drawn/val", "drawn/annotations/instances_val.json").code == 0


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_synth_leaves_the_annotations_of_a_user(ldkit: Shell) -> None:
    mine = Path("mine/annotations/instances_train.json")
    mine.parent.mkdir(parents=True)
    mine.write_text('{"images": [], "annotations": [], "categories": []}')
    said = ldkit("data", "synth", "mine", "--train", "1", "--val", "1", "--size", "64")
    assert (said.code, said.out) == (2, "")
    assert f"{mine}: is there already, and ldkit did not draw it.\n" in said.err
    assert [path for path in Path("mine").rglob("*") if path.is_file()] == [mine]
