"""A whole published model and what was recorded of it: outputs, losses, gradients, steps."""

import json
from collections.abc import Iterator
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
from ldkit.structures import GroundTruth, LossTerms, Predictions, View
from tests.models.published import GRID, probe, published_name, reference_image

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = range(5)
SETTINGS = GflSettings(
    cls_weight=1.0, beta=2.0, box_weight=2.0, dfl_weight=0.25, weight_sum="clamp_1"
)


class Golden(NamedTuple):
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    image: Tensor


def read_golden(name: str) -> Golden:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return Golden(tensors, facts, reference_image(facts["H"], facts["W"]))


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


def assert_names_and_shapes(detector: Detector, golden: Golden) -> None:
    ours = {published_name(k): list(v.shape) for k, v in detector.state_dict().items()}
    published = dict(golden.facts["state_keys"])
    del published["bbox_head.integral.project"]  # a constant there, no weight
    assert ours == published
    trainable = {published_name(k) for k, p in detector.named_parameters() if p.requires_grad}
    assert trainable == set(golden.facts["trainable"])


def assert_maps(detector: Detector, golden: Golden, steps: tuple[int, int, int, int]) -> None:
    """Compare every so many channels of C3, C4, C5 and of the pyramid."""
    with torch.no_grad():
        maps = detector.backbone(golden.image)
        pyramid = detector.fpn(maps)
    c3, c4, c5 = (map_BCHW[:1] for map_BCHW in maps)
    close(c3[:, :: steps[0], ::4, ::4], golden.tensors["C3.sub"])
    close(c4[:, :: steps[1]], golden.tensors["C4.sub"])
    close(c5[:, :: steps[2]], golden.tensors["C5.sub"])
    for level in LEVELS:
        close(pyramid[level][:1, :: steps[3]], golden.tensors[f"fpn.l{level}"])


def assert_logits(predictions: Predictions, golden: Golden) -> None:
    cls = [golden.tensors[f"cls.l{level}"].flatten(2).transpose(1, 2) for level in LEVELS]
    reg = [golden.tensors[f"reg.l{level}"].flatten(2).transpose(1, 2) for level in LEVELS]
    close(predictions.cls_logits[:1], torch.cat(cls, dim=1))
    close(predictions.bbox_logits[:1], torch.cat(reg, dim=1).unflatten(2, (4, 17)))


def assert_detections(predictions: Predictions, golden: Golden) -> None:
    view = View(source_hw=(320, 384), resized_hw=(160, 192), padded_hw=(160, 192), flip=False)
    settings = DecodeSettings(0.05, 1000, "pairs", 0.6, 100)
    for image, found in enumerate(decode(predictions, GRID, (160, 192), (view, view), settings)):
        close(found.scores, golden.tensors[f"pred.img{image}.scores"])
        boxes = golden.tensors[f"pred.img{image}.boxes"]
        torch.testing.assert_close(found.boxes, boxes, rtol=1e-4, atol=1e-2)
        assert found.labels.tolist() == golden.tensors[f"pred.img{image}.labels"].tolist()


def assert_losses(values: GflValues, golden: Golden) -> None:
    """Compare the three losses on every level."""
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


def assert_gradients(gradients: dict[str, Tensor], golden: Golden) -> None:
    published = golden.facts["grads_step0"]
    assert set(gradients) == set(published)
    for name, (norm, dot) in published.items():
        gradient = gradients[name]
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6), name
        along = float((gradient.double() * probe(name, gradient.shape)).sum())
        spread = norm * 1e-3 * max(1.0, gradient.numel() ** 0.5 / 30)
        assert along == pytest.approx(dot, abs=spread + 1e-6), name


def gradients(detector: Detector) -> dict[str, Tensor]:
    parameters = detector.named_parameters()
    return {published_name(k): p.grad.clone() for k, p in parameters if p.grad is not None}


class Trained(NamedTuple):
    """One step: its terms and the norm of its gradient, before the weights moved."""

    terms: LossTerms
    norm: float


def train(detector: Detector, golden: Golden) -> Iterator[Trained]:
    """Take the recorded steps of SGD."""
    optimizer = torch.optim.SGD(
        [p for p in detector.parameters() if p.requires_grad],
        lr=1e-3,
        momentum=0.9,
        weight_decay=1e-4,
    )
    detector.train()
    for _ in golden.facts["sgd_steps"]:
        optimizer.zero_grad()
        terms = losses(detector, golden)[1]
        terms.total.backward()
        norms = [p.grad.norm() for p in detector.parameters() if p.grad is not None]
        yield Trained(terms, float(torch.stack(norms).norm()))
        optimizer.step()


def assert_step(found: Trained, step: dict[str, float]) -> None:
    assert found.terms.total.item() == pytest.approx(step["total"], rel=1e-4)
    assert found.terms.cls.item() == pytest.approx(step["loss_cls"], rel=1e-4)
    assert found.terms.box.item() == pytest.approx(step["loss_bbox"], rel=1e-4)
    assert found.terms.dfl.item() == pytest.approx(step["loss_dfl"], rel=1e-4)
    assert found.norm == pytest.approx(step["grad_norm"], rel=1e-3)


def assert_weights_after(detector: Detector, golden: Golden) -> None:
    weights = {published_name(k): p for k, p in detector.named_parameters()}
    for name, dot in golden.facts["weights_after"].items():
        weight = weights[name].detach().double()
        along = float((weight * probe(name, weight.shape)).sum())
        assert along == pytest.approx(dot, rel=1e-3, abs=2e-3), name
