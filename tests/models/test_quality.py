"""The quality of GFLv2: what it reads off the distributions, and how it weighs scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.models.gfl import GflHead
from ldkit.models.quality import EdgeQuality, weighed_logits
from ldkit.structures import Grid
from tests.models.published import fill

GRID = Grid(strides=(8, 16), anchor_scale=8.0)
logits = st.floats(-30, 30)


def quality_head(*, has_quality: bool = True) -> GflHead:
    quality = EdgeQuality(topk=3, channels=8) if has_quality else None
    head = GflHead(16, 5, 2, 4, 8, GRID, quality)
    fill(head)
    return head


def maps() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 16, 8, 10), torch.randn(2, 16, 4, 5)]


@pytest.mark.law
@settings(deadline=None)
@given(z=logits, r=logits)
def test_the_score_is_the_product_of_both_scores(z: float, r: float) -> None:
    cls, quality = torch.tensor([z]).double(), torch.tensor([r]).double()
    product = cls.sigmoid() * quality.sigmoid()
    assert_close(weighed_logits(cls, quality).sigmoid(), product, rtol=1e-9, atol=0)


@pytest.mark.law
@given(z=st.floats(-50, 50))
def test_a_quality_of_1_leaves_the_scores_of_gfl(z: float) -> None:
    cls = torch.tensor([z, -z])
    assert_close(weighed_logits(cls, torch.tensor([torch.inf])), cls, rtol=0, atol=1e-5)


@pytest.mark.law
def test_large_logits_keep_their_value_and_their_gradient() -> None:
    large = torch.tensor([-50.0, -20.0, 0.0, 20.0, 50.0])
    cls, quality = (x.clone().requires_grad_() for x in torch.meshgrid(large, large, indexing="ij"))
    found = weighed_logits(cls[..., None], quality[..., None])[..., 0]
    exact = weighed_logits(cls.detach().double()[..., None], quality.detach().double()[..., None])
    assert_close(found, exact[..., 0].float(), rtol=1e-6, atol=1e-6)
    assert found[0, 0].item() == pytest.approx(-100)
    assert found[4, 4].item() == pytest.approx(50 - torch.tensor(2.0).log().item())
    gradients = torch.autograd.grad(found.sum(), (cls, quality))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert_close(gradients[0][0, 0].item(), 1.0)
    assert_close(gradients[1][0, 0].item(), 1.0)


@pytest.mark.law
def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    quality = EdgeQuality(topk=2, channels=4).double()
    with torch.no_grad():
        for parameter in quality.parameters():
            parameter.normal_()
    cls = torch.randn(1, 3, 2).double().requires_grad_()
    bbox = torch.randn(1, 3, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z, b: weighed_logits(z, quality(b)), (cls, bbox))


@pytest.mark.law
def test_the_largest_probabilities_and_their_mean_are_read_edge_by_edge() -> None:
    torch.manual_seed(0)
    quality = EdgeQuality(topk=2, channels=3)
    bbox = torch.randn(2, 7, 4, 5)
    with torch.no_grad():
        for parameter in quality.parameters():
            parameter.normal_()
        first, _, second = quality.layers.children()
        for image, location in ((0, 0), (1, 6)):
            read = []
            for edge in range(4):
                high, low = sorted(bbox[image, location, edge].softmax(0).tolist())[:-3:-1]
                read += [high, low, (high + low) / 2]
            hidden = first(torch.tensor(read).view(1, 12, 1, 1)).relu()
            assert_close(quality(bbox)[image, location], second(hidden).flatten())


@pytest.mark.law
def test_the_order_of_the_bins_does_not_matter_but_that_of_the_edges_does() -> None:
    torch.manual_seed(0)
    quality = EdgeQuality(topk=4, channels=8)
    fill(quality)
    bbox = torch.randn(1, 6, 4, 9)
    with torch.no_grad():
        found = quality(bbox)
        assert_close(quality(bbox.flip(-1)), found)
        assert not torch.allclose(quality(bbox.flip(-2)), found, atol=1e-5)


@pytest.mark.golden
def test_a_fresh_quality_starts_as_published() -> None:
    torch.manual_seed(0)
    quality = EdgeQuality(topk=4, channels=64)
    shapes = {name: tuple(value.shape) for name, value in quality.state_dict().items()}
    assert shapes == {
        "layers.0.weight": (64, 20, 1, 1),
        "layers.0.bias": (64,),
        "layers.2.weight": (1, 64, 1, 1),
        "layers.2.bias": (1,),
    }
    weight = quality.state_dict()["layers.0.weight"]
    assert weight.std().item() == pytest.approx(0.01, abs=5e-4)
    assert not quality.state_dict()["layers.0.bias"].any()
    assert_close(quality(torch.randn(1, 3, 4, 17)).sigmoid().mean().item(), 0.5, atol=1e-3, rtol=0)


@pytest.mark.law
def test_a_head_with_a_quality_differs_by_its_scores_alone() -> None:
    plain, head = quality_head(has_quality=False), quality_head()
    with torch.no_grad():
        expected, found = plain(maps()), head(maps())
        assert head.quality is not None
        weighed = weighed_logits(expected.cls_logits, head.quality(expected.bbox_logits))
    assert found.bare_cls_logits is not None
    assert torch.equal(found.bare_cls_logits, expected.cls_logits)
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.bbox_logits, expected.bbox_logits)
    assert torch.equal(found.cls_logits, weighed)
    assert (found.cls_logits < expected.cls_logits).all()


@pytest.mark.law
def test_scores_teach_the_distributions() -> None:
    found = quality_head()(maps())
    found.bbox_logits.retain_grad()
    found.cls_logits.sum().backward()
    assert found.bbox_logits.grad is not None
    assert found.bbox_logits.grad.abs().amax(dim=-1).gt(0).all()


@pytest.mark.law
def test_features_that_cross_get_a_quality_as_well() -> None:
    head = quality_head()
    with torch.no_grad():
        found = head(maps(), 1)
        back = head.from_crossing(found.crossing, 1)
    assert torch.equal(back.cls_logits, found.cls_logits)
    assert torch.equal(back.class_logits, found.class_logits)
