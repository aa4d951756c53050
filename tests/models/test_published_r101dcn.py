"""The whole R-101-DCN model against mmdet 3.3.0: outputs, losses, gradients, two SGD steps."""

import pytest
import torch

from ldkit.models.deform import Deform
from ldkit.models.gfl import Detector
from tests.models.published import fill, published_detector
from tests.models.whole_model import (
    Golden,
    assert_detections,
    assert_gradients,
    assert_logits,
    assert_losses,
    assert_maps,
    assert_names_and_shapes,
    assert_step,
    assert_weights_after,
    gradients,
    losses,
    read_golden,
    train,
)

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden("deform_r101dcn")


@pytest.fixture(scope="module")
def detector() -> Detector:
    """The model as recorded; the last test moves its weights."""
    model = published_detector("resnet101", Deform(stages=(2, 3, 4), version=1))
    fill(model)
    return model


def test_names_shapes_and_trainable_parameters_are_the_published_ones(
    detector: Detector, golden: Golden
) -> None:
    assert_names_and_shapes(detector, golden)
    counts = [p.numel() for p in detector.parameters()]
    trainable = [p.numel() for p in detector.parameters() if p.requires_grad]
    assert sum(counts) == golden.facts["num_params"]
    assert sum(trainable) == golden.facts["num_trainable"]


def test_feature_maps_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    assert_maps(detector, golden, steps=(32, 32, 64, 8))


def test_logits_and_detections_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    with torch.no_grad():
        predictions = detector(golden.image)
    assert_logits(predictions, golden)
    assert_detections(predictions, golden)


def test_another_memory_layout_gives_the_same_logits(detector: Detector, golden: Golden) -> None:
    twin = detector.to(memory_format=torch.channels_last)
    image = golden.image.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_logits(twin(image), golden)
    detector.to(memory_format=torch.contiguous_format)


def test_losses_are_the_published_ones_on_every_level(detector: Detector, golden: Golden) -> None:
    assert_losses(losses(detector, golden)[0], golden)


def test_gradients_and_both_steps_of_sgd_are_the_published_ones(
    detector: Detector, golden: Golden
) -> None:
    steps = golden.facts["sgd_steps"]
    for number, found in enumerate(train(detector, golden)):
        if number == 0:
            assert_gradients(gradients(detector), golden)
        assert_step(found, steps[number])
    assert_weights_after(detector, golden)
