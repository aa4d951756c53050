"""From a published checkpoint to a model file: names of classes, recipe, lineage, refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ldkit.data import voc
from ldkit.errors import LdkitError
from ldkit.jobs import assemble, class_names, import_teacher
from ldkit.jobs.facts import Fact, as_json
from ldkit.jobs.progress import Note
from ldkit.jobs.targets import target
from ldkit.models.checkpoint_file import read_model, write_model
from ldkit.models.coco_classes import COCO_CLASSES
from ldkit.models.deform import Deform
from ldkit.models.gfl import Detector
from ldkit.models.import_mmdet import Published
from ldkit.models.mmdet_meta import Meta
from ldkit.models.mmdet_shapes import Architecture
from ldkit.recipe.detector import QualityHead
from ldkit.recipe.load import load_recipe
from tests.jobs.tiny import finish, told
from tests.models.mmdet_files import (
    CLASSES,
    newer_file,
    older_file,
    published_state,
    save,
    small_detector,
)
from tests.models.published import fill


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return small_detector().eval()


@pytest.fixture
def file(model: Detector, tmp_path: Path) -> Path:
    return save(older_file(published_state(model)), tmp_path / "gfl_r18_tiny.pth")


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(LdkitError) as caught:
        action()
    return str(caught.value)


def published(num_classes: int, *classes: str, path: Path = Path("x.pth")) -> Published:
    found = Architecture("resnet18", (), 0, 256, (3, 4, 5, 6, 7), 4, 16, num_classes)
    return Published(path, "f" * 64, {}, found, Meta("2.x", classes, {}), ())


@pytest.mark.contract
def test_a_model_file_is_made_with_its_lineage_and_a_recipe(
    model: Detector, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "teacher.pt"
    facts = finish(import_teacher.run(file, out))
    made, contents = assemble.trained_detector(out)
    image = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        found, expected = made(image), model(image)
    assert torch.equal(found.cls_logits, expected.cls_logits)
    assert torch.equal(found.bbox_logits, expected.bbox_logits)
    assert contents.classes == CLASSES
    origin = contents.origin
    assert origin["imported"] == "gfl_r18_tiny.pth"
    assert len(origin["sha256"]) == 64
    assert origin["form"] == "2.x"
    assert origin["meta"]["mmdet_version"] == "2.10.0+fa1c3a7"
    recipe = target(out, []).recipe
    shipped = load_recipe("coco/gfl_r18").recipe
    assert (recipe.views, recipe.data, recipe.eval) == (shipped.views, shipped.data, shipped.eval)
    assert recipe.expect is None
    assert recipe.detector.head.reg_max == 8
    assert as_json(facts)["recipe"] == "coco/gfl_r18"


@pytest.mark.contract
def test_what_was_read_off_the_shapes_is_shown(file: Path, tmp_path: Path) -> None:
    facts = finish(import_teacher.run(file, tmp_path / "r18.safetensors"))
    shown = {key: fact.text if isinstance(fact, Fact) else fact for key, fact in facts.items()}
    assert shown["backbone"] == "resnet18"
    assert shown["pyramid"] == "32 channels, levels 3 to 7"
    assert shown["head"] == "2 + 2 convolutions, 9 bins (reg_max 8)"
    assert shown["classes"] == "3 (cat, dog, rabbit)"
    assert shown["assumed"] == "strides 8 to 128, anchors of 8 strides, GroupNorm of 32 groups"
    assert shown["from"].startswith("mmdetection 2.x (mmdet_version 2.10.0+fa1c3a7, ")
    machine = as_json(facts)
    assert machine["classes"] == ["cat", "dog", "rabbit"]
    assert machine["head"] == {
        "convs": 2,
        "norm_groups": 32,
        "reg_max": 8,
        "bin_width": 1.0,
        "anchor_scale": 8.0,
        "kind": "gfl",
    }


@pytest.mark.contract
@pytest.mark.parametrize(
    ("backbone", "deform"), [("resnet18", None), ("resnet50", Deform((2, 3, 4), 1))]
)
def test_a_gflv2_is_imported_with_its_head_and_without_its_spare_class(
    backbone: str, deform: Deform | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    source = small_detector(backbone, deform, has_quality=True).eval()
    fill(source)
    path = save(older_file(published_state(source)), tmp_path / "x.pth")
    facts = finish(import_teacher.run(path))
    path.unlink()
    short = "r18" if deform is None else "r50dcn"
    made, contents = assemble.trained_detector(Path(f"{short}_gflv2.pt"))
    image = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        found, expected = made(image), source(image)
    assert torch.equal(found.cls_logits, expected.cls_logits)
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.bbox_logits, expected.bbox_logits)
    assert contents.classes == CLASSES
    recipe = target(Path(f"{short}_gflv2.pt"), []).recipe
    assert recipe.name == f"gflv2_{short}"
    assert recipe.detector.head == QualityHead(
        kind="gflv2", convs=2, reg_max=8, topk=4, quality_channels=16
    )
    shown = facts["head"]
    assert isinstance(shown, Fact)
    assert shown.text == (
        "2 + 2 convolutions, 9 bins (reg_max 8), scores weighed by the 4 largest probabilities "
        "of each edge (GFLv2, 16 channels)"
    )
    assumed = facts["assumed"]
    assert isinstance(assumed, str)
    assert assumed.endswith(", a mean beside the largest probabilities")


@pytest.mark.contract
def test_the_class_row_that_is_left_out_is_told(tmp_path: Path) -> None:
    state = published_state(small_detector(has_quality=True))
    path = save(older_file(state), tmp_path / "x.pth")
    notes = told(import_teacher.run(path, tmp_path / "r18.pt"))
    assert notes == [
        Note(
            "Left out: the last of 4 class rows, which GFLv2 heads have beyond their 3 classes "
            "and never use."
        )
    ]


@pytest.mark.contract
def test_a_model_file_from_before_heads_had_kinds_is_the_same_model(
    file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r18.pt"
    finish(import_teacher.run(file, out))
    contents = read_model(out)
    head = {key: value for key, value in contents.detector["head"].items() if key != "kind"}
    write_model(out, replace(contents, detector=contents.detector | {"head": head}))
    assert assemble.trained_detector(out)[0].head.quality is None
    notes = told(import_teacher.run(file, out))
    assert notes == [Note(f"{out} holds this model already; nothing was written.")]


@pytest.mark.contract
def test_without_out_the_file_has_the_short_name_and_is_never_replaced(
    file: Path, model: Detector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    finish(import_teacher.run(file))
    first = Path("r18.pt").read_bytes()
    notes = told(import_teacher.run(file))
    assert notes == [Note("r18.pt holds this model already; nothing was written.")]
    newer = save(newer_file(published_state(model), ("a", "b", "c")), tmp_path / "y.pth")
    assert refused(lambda: finish(import_teacher.run(newer))) == (
        "r18.pt: holds something else already, and is not replaced.\n"
        "Name another file with `--out FILE.pt`, or remove it."
    )
    assert Path("r18.pt").read_bytes() == first
    Path("r18.pt").write_text("mine")
    assert "holds something else already" in refused(lambda: finish(import_teacher.run(file)))


@pytest.mark.contract
def test_a_model_file_of_another_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    text = refused(lambda: finish(import_teacher.run(tmp_path / "absent.pth", Path("r18.pth"))))
    assert text == (
        "r18.pth: is no name for a model file, which ends in .pt or .safetensors.\n"
        "For example r18.pt."
    )


@pytest.mark.contract
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist."),
        (b"", "is empty, but a checkpoint of the mmdetection family is expected."),
        (b"weights, they said\n", "is not a checkpoint of the mmdetection family: no file of"),
        (b"PK\x03\x04 half a download", "is truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    if content is not None:
        path.write_bytes(content)
    text = refused(lambda: finish(import_teacher.run(path, tmp_path / "r18.pt")))
    assert text.startswith(f"{path}: {said}")
    assert list(tmp_path.glob("*.pt")) == []
    assert "is a folder, but a checkpoint" in refused(lambda: finish(import_teacher.run(tmp_path)))


@pytest.mark.contract
def test_a_head_that_ldkit_cannot_build_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = published_state(small_detector())
    state["bbox_head.gfl_reg.weight"] = torch.zeros(4 * 80, 32, 3, 3)
    state["bbox_head.gfl_reg.bias"] = torch.zeros(4 * 80)
    del state["bbox_head.integral.project"]
    path = save(older_file(state), tmp_path / "x.pth")
    text = refused(lambda: finish(import_teacher.run(path, tmp_path / "r18.pt")))
    assert "has an architecture that ldkit cannot build:\n  head.reg_max: " in text
    assert "less than or equal to 64" in text


@pytest.mark.contract
def test_a_name_of_the_zoo_that_promises_another_file_is_doubted(
    file: Path, tmp_path: Path
) -> None:
    path = file.rename(tmp_path / "gfl_r18_fpn_1x_coco_20200629_200126-dd12f847.pth")
    notes = told(import_teacher.run(path, tmp_path / "r18.pt"))
    assert len(notes) == 1
    assert isinstance(notes[0], Note)
    assert notes[0].text.startswith("The name promises a file of sha256 dd12f847…, but it is ")
    sha256 = read_model(tmp_path / "r18.pt").origin["sha256"]
    kept = path.rename(tmp_path / f"ld_r18_{sha256[:8]}.pth")
    notes = told(import_teacher.run(kept, tmp_path / "again.pt"))
    assert notes == []


@pytest.mark.contract
def test_names_of_classes_come_from_the_user_the_file_or_coco(tmp_path: Path) -> None:
    names = class_names.class_names
    assert names(published(3, *CLASSES), None) == (CLASSES, [])
    assert names(published(3, *CLASSES), "a, b,c") == (("a", "b", "c"), [])
    listed = tmp_path / "names.txt"
    listed.write_text("one fish\n\n  two fish \nred fish\n", encoding="utf-8")
    assert names(published(3), str(listed)) == (("one fish", "two fish", "red fish"), [])
    older = [name.replace(" ", "_") for name in COCO_CLASSES]
    assert names(published(80, *older), None) == (COCO_CLASSES, [])
    found, notes = names(published(80), None)
    assert found == COCO_CLASSES
    assert notes == ["The file names no classes; its 80 are taken for COCO's, in their order."]


@pytest.mark.contract
def test_a_class_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    def said(given: str | None) -> str:
        return refused(lambda: class_names.class_names(published(3), given))

    assert said(None) == (
        "x.pth: does not say what its 3 classes are called.\n"
        "Give their names, in order: `--classes a,b,c`, or a text file with one name a line."
    )
    assert said("a,b").startswith(
        "--classes: names 2 classes (a, b), but the checkpoint has 3.\nGive one name for each"
    )
    assert said("a,b,c,d,e").startswith("--classes: names 5 classes (a, b, c, d, …), but")
    assert said("a,b,a") == "--classes: names a more than once."
    broken = tmp_path / "names.txt"
    broken.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in said(str(broken))


@pytest.mark.contract
def test_classes_of_voc_take_the_recipe_of_voc() -> None:
    section = load_recipe("coco/gfl_r50").recipe.detector
    recipe, source = import_teacher._recipe(section, "r50", voc.CLASSES)
    assert source == "voc/gfl_r101"
    assert recipe.data == load_recipe("voc/gfl_r101").recipe.data
    assert recipe.name == "gfl_r50"
