"""Data sets that are not right: told at once, with ids, before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Shell
from tests.cli.mistakes import TRAIN, Mistake, meet

Document = dict[str, Any]

IMAGES = Path("data/train")
ANNOTATIONS = Path("data/annotations/instances_train.json")
CHECK = ("data", "check", str(IMAGES), str(ANNOTATIONS))
WHOLE = "Name a complete COCO annotation file"


def changed(change: Callable[[Document], object]) -> Callable[[], None]:
    def spoil() -> None:
        document = json.loads(ANNOTATIONS.read_text())
        change(document)
        ANNOTATIONS.write_text(json.dumps(document))

    return spoil


def annotation(number: int, **fields: object) -> Callable[[], None]:
    return changed(lambda document: document["annotations"][number].update(fields))


def image(number: int, **fields: object) -> Callable[[], None]:
    return changed(lambda document: document["images"][number].update(fields))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


NO_IMAGE = "image 2 ('2.png'): the file is missing in data/train."
CANNOT_READ = "data/train/2.png: the image cannot be read:"
NOT_COMPLETE = (f"{ANNOTATIONS}: is not valid JSON: line 1, column ", WHOLE)
OUTSIDE = "annotation 2 of image 1: bbox [100, 100, 20, 20] lies outside its image of 64 x 64"
NEGATIVE = "annotation 2 of image 1: bbox [10, 10, -20, 20] has a negative width or height."
DROP = "Set data.bad_boxes=drop to leave such boxes out."
NO_CATEGORY = "there is no category 77."
MISTAKES = {
    "a missing image": Mistake(
        TRAIN,
        3,
        (f"{ANNOTATIONS}: 1 problem", NO_IMAGE, "Is this the image folder that belongs to"),
        lambda: (IMAGES / "2.png").unlink(),
    ),
    "an image that is none": Mistake(
        TRAIN,
        3,
        (CANNOT_READ, "the file is damaged, or of an unknown format.", "Copy the file anew"),
        lambda: (IMAGES / "2.png").write_bytes(b"no picture"),
        leaves="runs/teacher/",
    ),
    "an image cut short": Mistake(
        TRAIN,
        3,
        (CANNOT_READ, "Copy the file anew"),
        lambda: (IMAGES / "2.png").write_bytes((IMAGES / "2.png").read_bytes()[:500]),
        leaves="runs/teacher/",
    ),
    "an image of another size": Mistake(
        TRAIN,
        3,
        ("the image is 64 x 96 (width x height)", "states 65 x 96 for image 2", "Boxes cannot be"),
        image(1, width=65),
        leaves="runs/teacher/",
    ),
    "no image folder": Mistake(
        TRAIN, 3, ("the image folder data/train does not exist.",), lambda: shutil.rmtree(IMAGES)
    ),
    "broken JSON": Mistake(
        TRAIN, 3, NOT_COMPLETE, lambda: ANNOTATIONS.write_text(ANNOTATIONS.read_text()[:500])
    ),
    "empty JSON": Mistake(
        TRAIN, 3, (f"{ANNOTATIONS}: is empty.", WHOLE), lambda: ANNOTATIONS.write_text("")
    ),
    "JSON of another kind": Mistake(
        TRAIN,
        3,
        (f"{ANNOTATIONS}: holds a list where an object", WHOLE),
        lambda: ANNOTATIONS.write_text("[]"),
    ),
    "a folder in place of JSON": Mistake(
        TRAIN, 3, (f"{ANNOTATIONS}: is a folder, but", WHOLE), lambda: as_folder(ANNOTATIONS)
    ),
    "no JSON": Mistake(
        TRAIN, 3, (f"{ANNOTATIONS}: does not exist.", WHOLE), lambda: ANNOTATIONS.unlink()
    ),
    "a box outside its image": Mistake(
        TRAIN, 3, (OUTSIDE, DROP), annotation(1, bbox=[100, 100, 20, 20], image_id=1)
    ),
    "a negative width": Mistake(
        TRAIN, 3, (NEGATIVE, DROP), annotation(1, bbox=[10, 10, -20, 20], image_id=1)
    ),
    "an unknown category": Mistake(
        TRAIN, 3, (NO_CATEGORY, "Nothing was started."), annotation(1, category_id=77)
    ),
    "an unknown image": Mistake(
        TRAIN, 3, ("annotation 2 of image 99: there is no such image.",), annotation(1, image_id=99)
    ),
    "annotations with one id": Mistake(
        TRAIN, 3, ("annotation 1 of image", "the id occurs more than once."), annotation(1, id=1)
    ),
    "images with one id": Mistake(
        TRAIN, 3, ("image 1 ('2.png'): the id occurs more than once.",), image(1, id=1)
    ),
    "no boxes at all": Mistake(
        TRAIN,
        3,
        ("data.train: none of the 7 images can be trained on",),
        changed(lambda document: document["annotations"].clear()),
    ),
    "no data set": Mistake(
        TRAIN,
        3,
        ("data: does not exist.", "--set data.root=FOLDER"),
        lambda: shutil.rmtree("data"),
    ),
    "a file in place of the data set": Mistake(
        (*TRAIN, "--set", "data.root=t.pt"), 3, ("t.pt: is a file, not the folder of a data set.",)
    ),
    "a test set without boxes": Mistake(
        TRAIN,
        3,
        ("lists images without `annotations` (a test set)", "data.test_dev"),
        changed(lambda document: document.pop("annotations")),
    ),
    "a wrong data set, looked at": Mistake(
        CHECK,
        3,
        (OUTSIDE, "Nothing was started."),
        annotation(1, bbox=[100, 100, 20, 20], image_id=1),
    ),
    "no data set, looked at": Mistake(
        ("data", "check", "images", "boxes.json"), 3, ("boxes.json: does not exist.", WHOLE)
    ),
    "the paper's recipe in an empty place": Mistake(
        ("teacher", "train"), 3, ("data/coco: does not exist.", "--set data.root=FOLDER")
    ),
}


@pytest.mark.contract
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_data_set_is_told_and_nothing_is_lost(mistake: Mistake, ldkit: Shell) -> None:
    meet(mistake, ldkit)


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_all_that_is_wrong_is_told_at_once(ldkit: Shell) -> None:
    annotation(0, bbox=[100, 100, 20, 20], image_id=1)()
    annotation(1, category_id=77)()
    (IMAGES / "3.png").unlink()
    said = ldkit(*CHECK)
    assert said.code == 3
    assert f"{ANNOTATIONS}: 3 problems" in said.err
    for part in ("lies outside", NO_CATEGORY, "image 3 ('3.png')"):
        assert part in said.err


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_a_run_goes_on_when_the_image_is_mended(ldkit: Shell) -> None:
    whole = (IMAGES / "2.png").read_bytes()
    (IMAGES / "2.png").write_bytes(b"no picture")
    assert ldkit(*TRAIN).code == 3
    (IMAGES / "2.png").write_bytes(whole)
    said = ldkit(*TRAIN)
    assert said.code == 2
    assert "runs/teacher: holds an unfinished run already.\nGo on with it by `--resume`" in said.err
    assert ldkit(*TRAIN, "--resume").code == 0
    assert Path("runs/teacher/model.pt").is_file()
