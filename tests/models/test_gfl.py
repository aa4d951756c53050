"""Head and detector: the start, the layout of the logits, and what they depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldkit.models.backbone import small_backbone
from ldkit.models.fpn import Fpn
from ldkit.models.gfl import Detector, GflHead
from ldkit.models.quality import EdgeQuality
from ldkit.ops.anchors import anchors, level_sizes
from ldkit.ops.distribution import project
from ldkit.structures import Grid, Predictions
from tests.models.published import fill

LEVELS = (3, 4, 5, 6)
GRID = Grid(strides=(8, 16, 32, 64), anchor_scale=3.0, bin_width=0.5)


def small_detector(
    *, levels: tuple[int, ...] = LEVELS, reg_max: int = 16, classes: int = 5, convs: int = 1
) -> Detector:
    torch.manual_seed(0)
    grid = Grid(strides=tuple(2**level for level in levels), anchor_scale=3.0, bin_width=0.5)
    backbone = small_backbone(8, 1, levels)
    fpn = Fpn(backbone.channels, 16, levels)
    return Detector(backbone, fpn, GflHead(16, classes, convs, 8, reg_max, grid))


def filled_detector() -> Detector:
    """A detector with weights large enough for its logits to differ from place to place."""
    model = small_detector().eval()
    fill(model)
    return model


@torch.no_grad()
def predicted(model: Detector, images: Tensor) -> Predictions:
    predictions: Predictions = model(images)
    return predictions


@pytest.mark.law
@settings(deadline=None, max_examples=15)
@given(
    first=st.integers(2, 5),
    count=st.integers(1, 4),
    reg_max=st.integers(2, 20),
    classes=st.integers(1, 7),
    convs=st.integers(0, 2),
    canvas=st.tuples(st.integers(33, 150), st.integers(33, 150)),
)
def test_predictions_have_one_row_for_each_location(
    first: int, count: int, reg_max: int, classes: int, convs: int, canvas: tuple[int, int]
) -> None:
    levels = tuple(range(first, first + count))
    model = small_detector(levels=levels, reg_max=reg_max, classes=classes, convs=convs).eval()
    predictions = predicted(model, torch.randn(2, 3, *canvas))
    locations = len(anchors(canvas, model.grid, torch.device("cpu")).unit)
    assert predictions.cls_logits.shape == (2, locations, classes)
    assert predictions.bbox_logits.shape == (2, locations, 4, reg_max + 1)
    assert (model.num_classes, model.num_bins) == (classes, reg_max + 1)


@pytest.mark.law
def test_rows_of_predictions_are_numbered_like_anchors() -> None:
    model = filled_detector()
    images = torch.randn(2, 3, 64, 96)
    predictions = predicted(model, images)
    with torch.no_grad():
        maps = model.fpn(model.backbone(images))
        start = 0
        for level, (rows, cols) in enumerate(level_sizes((64, 96), GRID.strides)):
            tower = model.head.bbox_tower(maps[level])
            raw = model.head.bbox_logits(tower) * model.head.scales[level]
            row, col = rows - 1, cols // 2
            location = start + row * cols + col
            edges_4K = raw[1, :, row, col].reshape(4, 17)  # channel = edge · bins + bin
            torch.testing.assert_close(predictions.bbox_logits[1, location], edges_4K)
            start += rows * cols


@pytest.mark.law
def test_a_scale_belongs_to_its_level_and_stretches_the_logits() -> None:
    model = filled_detector()
    images = torch.randn(1, 3, 64, 64)
    before = predicted(model, images)
    with torch.no_grad():
        model.head.scales[1].mul_(2.0)
    after = predicted(model, images)
    counts = [rows * cols for rows, cols in level_sizes((64, 64), GRID.strides)]
    levels_before = before.bbox_logits.split(counts, dim=1)
    for level, logits in enumerate(after.bbox_logits.split(counts, dim=1)):
        torch.testing.assert_close(logits, levels_before[level] * (2.0 if level == 1 else 1.0))
    assert torch.equal(before.cls_logits, after.cls_logits)


@pytest.mark.golden
def test_a_fresh_head_starts_as_published() -> None:
    torch.manual_seed(0)
    head = GflHead(256, 80, 4, 32, 16, Grid((8, 16), 8.0))
    bias = head.state_dict()["cls_logits.bias"]
    torch.testing.assert_close(bias, torch.full((80,), -4.59511985))
    convs = [p for p in head.parameters() if p.ndim == 4]
    assert all(abs(p.std().item() - 0.01) < 5e-4 and abs(p.mean().item()) < 1e-3 for p in convs)
    with torch.no_grad():
        logits = head([torch.randn(1, 256, 16, 16), torch.randn(1, 256, 8, 8)])
    assert logits.cls_logits.sigmoid().amax(dim=-1).mean().item() == pytest.approx(0.021, abs=4e-3)
    assert project(logits.bbox_logits).mean().item() == pytest.approx(8.0, abs=0.2)
    dfl = -logits.bbox_logits.log_softmax(dim=-1).mean().item()
    assert dfl == pytest.approx(2.88, abs=0.02)  # log 17 = 2.83 for constant logits


@pytest.mark.law
def test_training_and_evaluation_return_the_same_type_and_shapes() -> None:
    model = small_detector()
    images = torch.randn(2, 3, 64, 64)
    trained, evaluated = model.train()(images), model.eval()(images)
    assert type(trained) is type(evaluated) is Predictions
    assert trained.cls_logits.shape == evaluated.cls_logits.shape
    assert trained.bbox_logits.shape == evaluated.bbox_logits.shape
    assert [x.shape for x in trained.maps] == [x.shape for x in evaluated.maps]
    assert trained.bare_cls_logits is evaluated.bare_cls_logits is None
    assert trained.crossing == evaluated.crossing == ()


@pytest.mark.law
def test_channels_last_gives_the_same_logits() -> None:
    model = filled_detector()
    images = torch.randn(2, 3, 64, 96)
    plain = predicted(model, images)
    last = predicted(
        model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(last.cls_logits, plain.cls_logits, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(last.bbox_logits, plain.bbox_logits, rtol=1e-4, atol=2e-5)


@pytest.mark.law
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_logits_of_an_image_do_not_depend_on_neighbours_of_its_size(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = filled_detector().to(memory_format=layout)
    images = torch.randn(3, 3, 64, 96).to(memory_format=layout)
    together = predicted(model, images)
    for image in range(3):
        alone = predicted(model, images[image : image + 1].contiguous(memory_format=layout))
        gap = max(
            (alone.cls_logits[0] - together.cls_logits[image]).abs().max().item(),
            (alone.bbox_logits[0] - together.bbox_logits[image]).abs().max().item(),
        )
        assert gap <= 1e-5


@pytest.mark.law
def test_logits_of_an_image_do_depend_on_its_padding() -> None:
    # GroupNorm counts the padding in: hence each view is padded to its own canvas, not further.
    model = filled_detector()
    image = torch.randn(1, 3, 64, 64)
    wider = torch.nn.functional.pad(image, (0, 64))
    narrow, wide = predicted(model, image), predicted(model, wider)
    first_row = slice(0, 4)  # far from the right border, on the finest level of both canvases
    gap = (narrow.bbox_logits[0, first_row] - wide.bbox_logits[0, first_row]).abs().max().item()
    assert gap > 0.05


@pytest.mark.law
def test_the_maps_are_those_of_the_pyramid_themselves() -> None:
    model = filled_detector()
    given = model.fpn(model.backbone(torch.randn(2, 3, 64, 96)))
    predictions = model.head(given)
    assert len(predictions.maps) == len(LEVELS)
    assert all(found is map_BDHW for found, map_BDHW in zip(predictions.maps, given, strict=True))


def crossed(convs: int, after: int) -> tuple[Detector, Predictions, Tensor]:
    model = small_detector(convs=convs).eval()
    fill(model)
    images = torch.randn(2, 3, 64, 96)
    return model, model(images, after), images


@pytest.mark.law
@pytest.mark.parametrize("after", [1, 2, 3])
def test_features_that_cross_back_into_their_own_head_give_its_logits(after: int) -> None:
    model, found, images = crossed(3, after)
    plain = model(images)
    assert torch.equal(found.cls_logits, plain.cls_logits)
    assert torch.equal(found.bbox_logits, plain.bbox_logits)
    back = model.head.from_crossing(found.crossing, after)
    assert torch.equal(back.cls_logits, plain.cls_logits)
    assert torch.equal(back.bbox_logits, plain.bbox_logits)
    assert back.maps == back.crossing == ()


@pytest.mark.law
def test_crossing_features_are_those_between_norm_and_relu() -> None:
    model, found, _ = crossed(3, 2)
    assert len(found.crossing) == len(LEVELS)
    for map_BDHW, features in zip(found.maps, found.crossing, strict=True):
        towers = (model.head.cls_tower, model.head.bbox_tower)
        for tower, feature in zip(towers, features, strict=True):
            conv, norm, _ = tower[1].children()
            assert torch.equal(feature, norm(conv(tower[0](map_BDHW))))
            assert (feature < 0).any()


@pytest.mark.law
def test_gradients_reach_crossing_features_through_a_frozen_head() -> None:
    _, found, _ = crossed(3, 2)
    teacher = small_detector(convs=3).eval().requires_grad_(requires_grad=False)
    fill(teacher)
    with torch.no_grad():
        teacher.head.scales[0].mul_(1.5)
    crossing = [
        (cls.detach().requires_grad_(), bbox.detach().requires_grad_())
        for cls, bbox in found.crossing
    ]
    judged = teacher.head.from_crossing(crossing, 2)
    first = len(judged.cls_logits[0]) - 1  # a location of the last level only
    judged.cls_logits[:, first].sum().backward(retain_graph=True)
    assert crossing[-1][0].grad is not None
    assert crossing[-1][0].grad.any()
    assert all(bbox.grad is None for _, bbox in crossing)
    judged.bbox_logits.square().sum().backward()
    assert all(bbox.grad is not None and bbox.grad.any() for _, bbox in crossing)
    count = 8 * 12
    torch.testing.assert_close(
        judged.bbox_logits[:, :count], 1.5 * found.bbox_logits[:, :count], rtol=1e-5, atol=1e-6
    )


@pytest.mark.law
def test_gradients_of_the_student_are_the_same_with_crossing_features() -> None:
    model, found, images = crossed(2, 1)
    found.bbox_logits.square().mean().backward()
    with_crossing = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(images).bbox_logits.square().mean().backward()
    for parameter, gradient in zip(model.parameters(), with_crossing, strict=True):
        if parameter.grad is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.law
@settings(deadline=None, max_examples=15)
@given(
    convs=st.integers(0, 3),
    views=st.integers(1, 3),
    canvas=st.tuples(st.integers(33, 150), st.integers(33, 150)),
    has_quality=st.booleans(),
)
def test_boxes_alone_are_bit_by_bit_those_of_the_whole_head(
    convs: int, views: int, canvas: tuple[int, int], has_quality: bool
) -> None:
    model = small_detector(convs=convs).eval()
    if has_quality:
        model.head.quality = EdgeQuality(topk=3, channels=8)
    fill(model)
    images = torch.randn(views, 3, *canvas)
    whole = predicted(model, images)

    def refuse(*_: object) -> None:
        pytest.fail("the class tower was asked")

    for part in (model.head.cls_tower, model.head.cls_logits):
        part.register_forward_pre_hook(refuse)
    with torch.no_grad():
        boxes = model.boxes(images)
    assert boxes.bbox_logits.equal(whole.bbox_logits)
    assert all(map(torch.equal, boxes.maps, whole.maps))
    assert boxes.cls_logits.shape == (*boxes.bbox_logits.shape[:2], 0)


@pytest.mark.contract
@pytest.mark.parametrize("after", [0, 3, -1])
def test_a_convolution_that_towers_lack_is_refused(after: int) -> None:
    model, found, images = crossed(2, 1)
    with pytest.raises(ValueError, match=f"towers of 2 convolutions have no number {after}"):
        model(images, after)
    with pytest.raises(ValueError, match=f"towers of 2 convolutions have no number {after}"):
        model.head.from_crossing(found.crossing, after)


@pytest.mark.contract
def test_parts_that_do_not_fit_are_refused() -> None:
    backbone = small_backbone(8, 1, (3, 4, 5))
    head = GflHead(16, 2, 0, 8, 8, Grid((8, 16, 32), 8.0))
    with pytest.raises(ValueError, match="backbone gives"):
        Detector(backbone, Fpn((8, 8, 8), 16, (3, 4, 5)), head)
    with pytest.raises(ValueError, match="fpn gives 24 channels, head takes 16"):
        Detector(backbone, Fpn(backbone.channels, 24, (3, 4, 5)), head)
    with pytest.raises(ValueError, match="fpn has strides"):
        Detector(backbone, Fpn(backbone.channels, 16, (3, 4, 5, 6)), head)
