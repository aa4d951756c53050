"""The whole R-18 model against mmdet 3.3.0: outputs, losses, gradients, five SGD steps."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ldkit.models.gfl import Detector
from ldkit.objectives.gfl import GflSettings, GflValues, gfl_terms, gfl_values
from ldkit.objectives.normalizers import totals
from ldkit.ops.anchors import anchors
from ldkit.ops.decode import DecodeSettings, decode
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.structures import GroundTruth, LossTerms, View
from tests.models.published import (
    GRID,
    fill,
    probe,
    published_detector,
    published_name,
    reference_image,
)

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = range(5)
SETTINGS = GflSettings(
    cls_weight=1.0, beta=2.0, box_weight=2.0, dfl_weight=0.25, weight_sum="clamp_1"
)

pytestmark = pytest.mark.golden


class Golden(NamedTuple):
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    image: Tensor


@pytest.fixture(scope="module")
def golden() -> Golden:
    facts = json.loads((GOLDEN / "models_r18.json").read_text())
    tensors = load_file(GOLDEN / "models_r18.safetensors")
    return Golden(tensors, facts, reference_image(facts["H"], facts["W"]))


@pytest.fixture
def detector() -> Detector:
    model = published_detector("resnet18")
    fill(model)
    return model


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def ground_truth(tensors: dict[str, Tensor]) -> GroundTruth:
    boxes = [tensors[f"gt.img{image}.boxes"] for image in range(2)]
    labels = [tensors[f"gt.img{image}.labels"] for image in range(2)]
    return GroundTruth(
        torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True),
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-1),
    )


def losses(detector: Detector, golden: Golden) -> tuple[GflValues, LossTerms]:
    image, targets = golden.image, ground_truth(golden.tensors)
    places = anchors((image.shape[2], image.shape[3]), GRID, image.device)
    valid = torch.ones(2, len(places.unit), dtype=torch.bool)
    rows = main_rows(assign_atss(places, valid, targets, topk=9))
    values = gfl_values(detector(image), places, valid, targets, rows, beta=2.0)
    return values, gfl_terms(values, totals(rows, values.weight, 2), SETTINGS)


def test_names_shapes_and_trainable_parameters_are_the_published_ones(
    detector: Detector, golden: Golden
) -> None:
    ours = {published_name(k): list(v.shape) for k, v in detector.state_dict().items()}
    published = dict(golden.facts["state_keys"])
    del published["bbox_head.integral.project"]  # a constant there, no weight
    assert ours == published
    trainable = {published_name(k) for k, p in detector.named_parameters() if p.requires_grad}
    assert trainable == set(golden.facts["trainable"])


def test_feature_maps_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    with torch.no_grad():
        maps = detector.backbone(golden.image)
        pyramid = detector.fpn(maps)
    c3, c4, c5 = (map_BCHW[:1] for map_BCHW in maps)
    close(c3[:, ::8, ::4, ::4], golden.tensors["C3.sub"])
    close(c4[:, ::8], golden.tensors["C4.sub"])
    close(c5[:, ::16], golden.tensors["C5.sub"])
    for level in LEVELS:
        close(pyramid[level][:1, ::4], golden.tensors[f"fpn.l{level}"])


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_logits_are_the_published_ones(
    detector: Detector, golden: Golden, channels_last: bool
) -> None:
    image = golden.image
    if channels_last:
        detector = detector.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    with torch.no_grad():
        predictions = detector(image)
    cls = [golden.tensors[f"cls.l{level}"].flatten(2).transpose(1, 2) for level in LEVELS]
    reg = [golden.tensors[f"reg.l{level}"].flatten(2).transpose(1, 2) for level in LEVELS]
    close(predictions.cls_logits[:1], torch.cat(cls, dim=1))
    close(predictions.bbox_logits[:1], torch.cat(reg, dim=1).unflatten(2, (4, 17)))


def test_detections_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    view = View(source_hw=(320, 384), resized_hw=(160, 192), padded_hw=(160, 192), flip=False)
    settings = DecodeSettings(0.05, 1000, "pairs", 0.6, 100)
    with torch.no_grad():
        predictions = detector.eval()(golden.image)
    for image, found in enumerate(decode(predictions, GRID, (160, 192), (view, view), settings)):
        close(found.scores, golden.tensors[f"pred.img{image}.scores"])
        boxes = golden.tensors[f"pred.img{image}.boxes"]
        torch.testing.assert_close(found.boxes, boxes, rtol=1e-4, atol=1e-2)
        assert found.labels.tolist() == golden.tensors[f"pred.img{image}.labels"].tolist()


def test_losses_are_the_published_ones_on_every_level(detector: Detector, golden: Golden) -> None:
    values, _ = losses(detector, golden)
    sums = totals(values.rows, values.weight, 2)
    counts = [int(c.shape[2] * c.shape[3]) for c in (golden.tensors[f"cls.l{i}"] for i in LEVELS)]
    level_A = torch.arange(5).repeat_interleave(torch.tensor(counts))
    level_P = level_A[values.rows.location]
    weights = sums.weights.clamp(min=1.0)
    for level in LEVELS:
        here = level_P == level
        found = {
            "loss_cls": values.cls[:, level_A == level].sum() / sums.positives,
            "loss_bbox": 2.0 * (values.weight * values.box)[here].sum() / weights,
            "loss_dfl": 0.25 * (values.weight * values.dfl)[here].sum() / weights,
        }
        for name, value in found.items():
            expected = golden.facts["loss_step0_per_level"][name][level]
            assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-7), (name, level)


def test_gradients_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    losses(detector, golden)[1].total.backward()
    published = golden.facts["grads_step0"]
    found = {published_name(k): p.grad for k, p in detector.named_parameters()}
    assert {name for name, gradient in found.items() if gradient is not None} == set(published)
    for name, (norm, dot) in published.items():
        gradient = found[name]
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6), name
        along = float((gradient.double() * probe(name, gradient.shape)).sum())
        spread = norm * 1e-3 * max(1.0, gradient.numel() ** 0.5 / 30)
        assert along == pytest.approx(dot, abs=spread + 1e-6), name


def test_five_steps_of_sgd_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    optimizer = torch.optim.SGD(
        [p for p in detector.parameters() if p.requires_grad],
        lr=1e-3,
        momentum=0.9,
        weight_decay=1e-4,
    )
    detector.train()
    for step in golden.facts["sgd_steps"]:
        optimizer.zero_grad()
        terms = losses(detector, golden)[1]
        terms.total.backward()
        gradients = [p.grad for p in detector.parameters() if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        optimizer.step()
        assert terms.total.item() == pytest.approx(step["total"], rel=1e-4)
        assert terms.cls.item() == pytest.approx(step["loss_cls"], rel=1e-4)
        assert terms.box.item() == pytest.approx(step["loss_bbox"], rel=1e-4)
        assert terms.dfl.item() == pytest.approx(step["loss_dfl"], rel=1e-4)
        assert float(norm) == pytest.approx(step["grad_norm"], rel=1e-3)
    weights = {published_name(k): p for k, p in detector.named_parameters()}
    for name, dot in golden.facts["weights_after"].items():
        weight = weights[name].detach().double()
        along = float((weight * probe(name, weight.shape)).sum())
        assert along == pytest.approx(dot, rel=1e-3, abs=2e-3), name
