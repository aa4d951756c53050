from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from ldkit.ops.boxes import paired_giou
from ldkit.ops.distribution import two_bin_target
from ldkit.ops.losses import (
    binary_kl,
    distribution_focal,
    giou_loss,
    localization_kl,
    quality_focal,
    softmax_kl,
)
from tests.ops.strategies import LAW, boxes, tensors

ClassKl = Callable[..., Tensor]

logits = tensors(3, 4, 9, low=-8, high=8)
class_logits = tensors(4, 5, low=-8, high=8)
qualities = tensors(4, 5, low=0, high=1)


@pytest.mark.law
@LAW
@given(cls_logits=class_logits, target=qualities, beta=st.sampled_from([0.0, 1.0, 2.0, 2.5]))
def test_quality_focal_is_the_cross_entropy_times_the_error(
    cls_logits: Tensor, target: Tensor, beta: float
) -> None:
    entropy = F.binary_cross_entropy_with_logits(cls_logits, target, reduction="none")
    error = (target - cls_logits.sigmoid()).abs()
    assert_close(quality_focal(cls_logits, target, beta), entropy * error**beta)


@pytest.mark.law
@LAW
@given(cls_logits=class_logits)
def test_quality_focal_is_still_where_the_score_is_right(cls_logits: Tensor) -> None:
    cls_logits.requires_grad_()
    value = quality_focal(cls_logits, cls_logits.detach().sigmoid(), beta=2.0).sum()
    value.backward()
    assert value < 1e-10
    assert cls_logits.grad is not None
    assert cls_logits.grad.abs().max() < 1e-6


@pytest.mark.law
@LAW
@given(bbox_logits=logits, distances=tensors(3, 4, low=0, high=7.875))
def test_distribution_focal_is_least_at_its_target(bbox_logits: Tensor, distances: Tensor) -> None:
    target = two_bin_target(distances, 9)
    least = -(target * target.clamp(min=1e-30).log()).sum(dim=-1)
    assert (distribution_focal(bbox_logits, distances) >= least - 1e-4).all()
    at_target = distribution_focal(target.clamp(min=1e-30).log(), distances)
    assert_close(at_target, least, atol=1e-4, rtol=1e-4)


@pytest.mark.law
@LAW
@given(bbox_logits=logits, places=tensors(3, 4, low=0, high=7))
def test_distribution_focal_at_a_whole_bin_is_its_cross_entropy(
    bbox_logits: Tensor, places: Tensor
) -> None:
    bins = places.floor()
    expected = F.cross_entropy(bbox_logits.flatten(0, 1), bins.flatten().long(), reduction="none")
    ours = distribution_focal(bbox_logits, bins).flatten()
    assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.law
def test_distances_outside_the_bins_count_as_the_outermost() -> None:
    bbox_logits = torch.linspace(-1, 1, 36).view(1, 4, 9)
    outside = torch.tensor([[-3.0, 0.0, 7.9, 50.0]])
    inside = torch.tensor([[0.0, 0.0, 7.9, 7.9]])
    assert distribution_focal(bbox_logits, outside).equal(distribution_focal(bbox_logits, inside))


@pytest.mark.law
@LAW
@given(first=boxes(4), second=boxes(4))
def test_giou_loss_lies_between_zero_and_two(first: Tensor, second: Tensor) -> None:
    values = giou_loss(first, second)
    assert ((values >= 0) & (values < 2)).all()
    assert_close(values, 1 - paired_giou(first, second))
    assert_close(giou_loss(first, first), torch.zeros(4))


@pytest.mark.law
@LAW
@given(student=logits, teacher=logits, temperature=st.sampled_from([1.0, 2.0, 10.0]))
def test_localization_kl_is_never_negative(
    student: Tensor, teacher: Tensor, temperature: float
) -> None:
    # Terms of the size of T² cancel, hence a tolerance of that size.
    slack = 1e-6 * temperature**2
    assert (localization_kl(student, teacher, temperature=temperature) >= -slack).all()


@pytest.mark.law
@LAW
@given(student=logits, shift=st.floats(-5, 5), temperature=st.sampled_from([1.0, 10.0]))
def test_localization_kl_is_zero_for_logits_equal_up_to_a_shift(
    student: Tensor, shift: float, temperature: float
) -> None:
    student.requires_grad_()
    values = localization_kl(student, student.detach() + shift, temperature=temperature)
    assert values.abs().max() < 1e-5 * temperature**2
    values.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5 * temperature


@pytest.mark.law
def test_localization_kl_tells_different_distributions_apart() -> None:
    student, teacher = torch.zeros(1, 4, 9), torch.zeros(1, 4, 9)
    teacher[..., 3] = 0.1
    assert (localization_kl(student, teacher, temperature=1.0) > 1e-5).all()


@pytest.mark.law
@LAW
@given(student=logits, teacher=logits, order=st.permutations(range(3)))
def test_rows_do_not_see_each_other(student: Tensor, teacher: Tensor, order: list[int]) -> None:
    values = localization_kl(student, teacher, temperature=2.0)
    permuted = localization_kl(student[order], teacher[order], temperature=2.0)
    assert permuted.equal(values[order])


@pytest.mark.law
@LAW
@given(student=logits, teacher=logits)
def test_temperature_divides_both_logits_and_its_square_scales_the_value(
    student: Tensor, teacher: Tensor
) -> None:
    warm = localization_kl(2 * student, 2 * teacher, temperature=2.0)
    cold = localization_kl(student, teacher, temperature=1.0)
    assert_close(warm, 4 * cold, atol=1e-4, rtol=1e-4)


class_kls = pytest.mark.parametrize("kl", [softmax_kl, binary_kl])
temperatures = st.sampled_from([1.0, 2.0, 10.0])


@pytest.mark.law
@class_kls
@LAW
@given(student=class_logits, teacher=class_logits, temperature=temperatures)
def test_class_kl_is_positive_and_zero_with_a_zero_gradient_at_the_teacher(
    kl: ClassKl, student: Tensor, teacher: Tensor, temperature: float
) -> None:
    assert (kl(student, teacher, temperature=temperature) > -1e-5 * temperature**2).all()
    student.requires_grad_()
    values = kl(student, student.detach().clone(), temperature=temperature)
    assert values.abs().max() < 1e-5 * temperature**2
    values.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5 * temperature


@pytest.mark.law
@LAW
@given(student=class_logits, teacher=class_logits, shift=st.floats(-5, 5))
def test_only_the_sigmoids_see_how_sure_a_teacher_is(
    student: Tensor, teacher: Tensor, shift: float
) -> None:
    values = softmax_kl(student, teacher, temperature=2.0)
    assert_close(
        softmax_kl(student, teacher + shift, temperature=2.0), values, atol=1e-4, rtol=1e-4
    )
    one = student[:, :1]
    assert softmax_kl(one, teacher[:, :1], temperature=2.0).abs().max() == 0
    assert (binary_kl(one, one + 1, temperature=2.0) > 1e-5).all()


@pytest.mark.law
@LAW
@given(student=class_logits, teacher=class_logits, temperature=temperatures)
def test_class_by_class_each_is_a_choice_of_two(
    student: Tensor, teacher: Tensor, temperature: float
) -> None:
    pairs = [torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (student, teacher)]
    of_two = softmax_kl(*(two.flatten(0, 1) for two in pairs), temperature=temperature)
    values = binary_kl(student, teacher, temperature=temperature)
    assert_close(values, of_two.view(4, 5).sum(dim=1), atol=1e-4 * temperature**2, rtol=1e-4)


@pytest.mark.law
def test_class_kl_is_finite_for_sure_scores() -> None:
    sure = torch.tensor([[200.0, -200.0]], requires_grad=True)
    for kl in (softmax_kl, binary_kl):
        value = kl(sure, -sure.detach(), temperature=1.0)
        (gradient,) = torch.autograd.grad(value.sum(), sure)
        assert_close(value, torch.tensor([400.0]))
        assert gradient.isfinite().all()


@pytest.mark.law
def test_gradients_are_those_of_the_values() -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    student = (4 * draw(2, 4, 5)).requires_grad_()
    teacher, distances, target = 4 * draw(2, 4, 5), 4 * draw(2, 4), draw(3, 2)
    cls_logits = (4 * draw(3, 2)).requires_grad_()
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda x: localization_kl(x, teacher, temperature=3.0), student)
    assert gradcheck(lambda x: distribution_focal(x, distances), student)
    assert gradcheck(lambda x: quality_focal(x, target, 2.0), cls_logits)
    assert gradcheck(lambda x: softmax_kl(x, target, temperature=3.0), cls_logits)
    assert gradcheck(lambda x: binary_kl(x, target, temperature=3.0), cls_logits)


@pytest.mark.law
def test_targets_and_teachers_get_no_gradient() -> None:
    student = torch.rand(2, 4, 5, requires_grad=True)
    other = torch.rand(2, 4, 5, requires_grad=True)
    boxes_P4 = torch.rand(2, 4, requires_grad=True)
    localization_kl(student, other, temperature=2.0).sum().backward()
    distribution_focal(student, boxes_P4).sum().backward()
    giou_loss(student[:, :, 0], boxes_P4).sum().backward()
    quality_focal(student[:, :, 0], boxes_P4, 2.0).sum().backward()
    softmax_kl(student[:, :, 0], boxes_P4, temperature=2.0).sum().backward()
    binary_kl(student[:, :, 0], boxes_P4, temperature=2.0).sum().backward()
    assert other.grad is None
    assert boxes_P4.grad is None


STUDENT = torch.tensor([[0.5, -1, 2, 0], [1, 1, -2, 0.3]])[:, None].expand(2, 4, 4)
TEACHER = torch.tensor([[0, 1, 1.5, -0.5], [2, -1, 0, 0.1]])[:, None].expand(2, 4, 4)


@pytest.mark.golden
def test_localization_kl_equals_the_published_mean_over_bins() -> None:
    mean_over_bins = localization_kl(STUDENT, TEACHER, temperature=10.0)[:, 0] / 4
    assert_close(mean_over_bins, torch.tensor([0.144966, 0.262841]), atol=0, rtol=1e-5)
    warm = localization_kl(STUDENT, TEACHER, temperature=2.0)[:, 0] / 4
    assert_close(10 * (warm @ torch.tensor([1.0, 0.5])) / 2, torch.tensor(1.163028))


@pytest.mark.golden
def test_softmax_kl_equals_the_published_mean_over_classes() -> None:
    mean_over_classes = softmax_kl(STUDENT[:, 0], TEACHER[:, 0], temperature=10.0) / 4
    assert_close(mean_over_classes, torch.tensor([0.144966, 0.262841]), atol=0, rtol=1e-5)


@pytest.mark.golden
def test_quality_focal_equals_the_published_one() -> None:
    cls_logits = torch.tensor([[-2, 0.5, -1], [0, -3, 1]])
    target = torch.tensor([[0, 0.7, 0], [0, 0, 0]])
    values = quality_focal(cls_logits, target, beta=2.0).sum(dim=-1)
    assert_close(values, torch.tensor([0.0282139, 0.8752644]), atol=1e-6, rtol=0)


@pytest.mark.golden
def test_distribution_focal_equals_the_published_one() -> None:
    distances = torch.tensor([1.25, 2.9])[:, None].expand(2, 4)
    values = distribution_focal(STUDENT, distances)[:, 0]
    assert_close(values, torch.tensor([2.592350, 1.864670]), atol=1e-6, rtol=0)


@pytest.mark.golden
def test_giou_loss_equals_the_published_one() -> None:
    predicted = torch.tensor([[0.0, 0, 10, 10], [5, 5, 6, 20]])
    target = torch.tensor([[2.0, 1, 8, 14], [20, 20, 30, 25]])
    expected = torch.tensor([0.678802, 1.87])
    assert_close(giou_loss(predicted, target), expected, atol=1e-6, rtol=0)
