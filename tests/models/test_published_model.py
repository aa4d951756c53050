"""The whole R-18 model against mmdet 3.3.0: outputs, losses, gradients, five SGD steps."""

import pytest
import torch

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
    return read_golden("models_r18")


@pytest.fixture
def detector() -> Detector:
    model = published_detector("resnet18")
    fill(model)
    return model


def test_names_shapes_and_trainable_parameters_are_the_published_ones(
    detector: Detector, golden: Golden
) -> None:
    assert_names_and_shapes(detector, golden)


def test_feature_maps_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    assert_maps(detector, golden, steps=(8, 8, 16, 4))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_logits_are_the_published_ones(
    detector: Detector, golden: Golden, channels_last: bool
) -> None:
    image = golden.image
    if channels_last:
        detector = detector.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_logits(detector(image), golden)


def test_detections_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    with torch.no_grad():
        assert_detections(detector.eval()(golden.image), golden)


def test_losses_are_the_published_ones_on_every_level(detector: Detector, golden: Golden) -> None:
    assert_losses(losses(detector, golden)[0], golden)


def test_gradients_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    losses(detector, golden)[1].total.backward()
    assert_gradients(gradients(detector), golden)


def test_five_steps_of_sgd_are_the_published_ones(detector: Detector, golden: Golden) -> None:
    for found, step in zip(train(detector, golden), golden.facts["sgd_steps"], strict=True):
        assert_step(found, step)
    assert_weights_after(detector, golden)
