"""Checkpoints with the reference's weights, through the importer: the recorded numbers come out.

The recorded images are noise, already normalised, and no file of pixels gives them: they go into
the imported models directly. `tests/cli/test_predict.py` goes the way of images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldkit.jobs import assemble, import_teacher
from ldkit.models.deform import Deform
from ldkit.models.gfl import Detector
from ldkit.models.import_mmdet import fitted, read_published
from tests.jobs.tiny import finish
from tests.models.mmdet_files import newer_file, older_file, save
from tests.models.published import published_detector, published_name, rule
from tests.models.test_forward_table import COUNTS, TABLE, close, fill_with_sines
from tests.models.whole_model import assert_detections, assert_logits, read_golden

pytestmark = pytest.mark.golden

DCN = Deform((2, 3, 4), 1)


@contextmanager
def imported(content: object, folder: Path, *, is_zip: bool) -> Iterator[Detector]:
    """Write a checkpoint, import it, and yield the detector of its model file."""
    path, out = folder / "published.pth", folder / "model.pt"
    try:
        save(content, path, is_zip=is_zip)
        finish(import_teacher.run(path, out))
        yield assemble.trained_detector(out)[0]
    finally:  # these are files of up to 210 MB
        path.unlink(missing_ok=True)
        out.unlink(missing_ok=True)


def rule_state(names: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """Return the reference's weights by their published names."""
    project = "bbox_head.integral.project"
    state = {name: rule(name, torch.Size(shape)) for name, shape in names if name != project}
    return state | {project: torch.arange(17.0)}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_r18_gives_the_recorded_logits_and_detections(is_zip: bool, tmp_path: Path) -> None:
    golden = read_golden("models_r18")
    state = rule_state(golden.facts["state_keys"])
    content = newer_file(state, None) if is_zip else older_file(state, None)
    with imported(content, tmp_path, is_zip=is_zip) as model, torch.no_grad():
        predictions = model(golden.image)
    assert_logits(predictions, golden)
    assert_detections(predictions, golden)


def test_r101_dcn_gives_the_recorded_logits_and_detections(tmp_path: Path) -> None:
    golden = read_golden("deform_r101dcn")
    state = rule_state(golden.facts["state_keys"])
    old = {name.replace("conv2.conv_offset", "conv2_offset"): v for name, v in state.items()}
    with imported(older_file(old, None), tmp_path, is_zip=False) as model, torch.no_grad():
        predictions = model(golden.image)
    assert_logits(predictions, golden)
    assert_detections(predictions, golden)


def test_r50_gives_the_table_of_the_reference(tmp_path: Path) -> None:
    row = TABLE["resnet50"]
    source = published_detector("resnet50").eval()
    fill_with_sines(source)
    state = {published_name(name): tensor for name, tensor in source.state_dict().items()}
    wave = torch.sin(0.01 * torch.arange(3 * 128 * 160, dtype=torch.float64))
    image = wave.float().reshape(1, 3, 128, 160)
    with imported(older_file(state, None), tmp_path, is_zip=True) as model, torch.no_grad():
        pyramid = model.fpn(model.backbone(image))
        found, expected = model(image), source(image)
    close([x.abs().mean().item() for x in pyramid], row.pyramid, 1e-5)
    close([x.abs().mean().item() for x in found.cls_logits[0].split(COUNTS)], row.cls, 1e-3)
    close([x.abs().mean().item() for x in found.bbox_logits[0].split(COUNTS)], row.bbox, 1e-3)
    assert torch.equal(found.cls_logits, expected.cls_logits)
    assert torch.equal(found.bbox_logits, expected.bbox_logits)


def test_r101_has_the_weights_of_its_file(tmp_path: Path) -> None:
    model = published_detector("resnet101")
    state = {name: value.half() for name, value in model.state_dict().items()}
    path = save({published_name(k): v for k, v in state.items()}, tmp_path / "r101.pth")
    found = fitted(read_published(path), model)
    path.unlink()
    for name, value in state.items():
        assert torch.equal(found[name], value.float()), name
