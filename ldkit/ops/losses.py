"""Loss values, one for each row: no weights, no sums over rows, no denominators.

What they are divided by is the business of `ldkit.objectives`. Distances are in bins.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ldkit.ops.boxes import paired_giou
from ldkit.ops.distribution import two_bin_target

LAST_BIN_MARGIN = 0.1
"""Bins that a target keeps from the last one. Source: `eps` of mmdet's `bbox2distance`."""


def quality_focal(
    cls_logits: Float[Tensor, "*b C"], target: Float[Tensor, "*b C"], beta: float
) -> Float[Tensor, "*b C"]:
    """Return |target - score|^beta times the binary cross-entropy, in nats.

    `target` is the quality of the box (an IoU, 0 to 1) at its class and 0 elsewhere; it is data
    and gets no gradient. The factor in front is part of the function: its gradient counts.

    Source: GFL (arXiv 2006.04388), equation 3.
    """
    target = target.detach()
    factor = (target - cls_logits.sigmoid()).abs().pow(beta)
    return factor * F.binary_cross_entropy_with_logits(cls_logits, target, reduction="none")


def distribution_focal(
    bbox_logits: Float[Tensor, "P 4 K"], distances: Float[Tensor, "P 4"]
) -> Float[Tensor, "P 4"]:
    """Return the cross-entropy of each edge towards the two bins beside its true distance.

    In nats. Distances outside the bins count as 0 or as K - 1 - 0.1.

    Source: GFL (arXiv 2006.04388), equation 6; bounds as published.
    """
    num_bins = bbox_logits.shape[-1]
    within = distances.detach().clamp(0, num_bins - 1 - LAST_BIN_MARGIN)
    target_P4K = two_bin_target(within, num_bins)
    return -(target_P4K * bbox_logits.log_softmax(dim=-1)).sum(dim=-1)


def giou_loss(predicted: Float[Tensor, "P 4"], target: Float[Tensor, "P 4"]) -> Float[Tensor, "P"]:
    """Return 1 - GIoU of each box with its target, from 0 to 2. Both in bins."""
    return 1 - paired_giou(predicted, target.detach())


def localization_kl(
    student: Float[Tensor, "P 4 K"], teacher: Float[Tensor, "P 4 K"], *, temperature: float
) -> Float[Tensor, "P 4"]:
    """Return T² · KL(teacher ‖ student) of each edge, in nats; the teacher gets no gradient.

    Both are logits, divided by the temperature T before their softmax. Summed over bins: the
    public code averages over them, which is this value divided by K.

    Source: LD (arXiv 2102.12252), equation 3; `knowledge_distillation_kl_div_loss` of mmdet.
    """
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    kl_P4 = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * kl_P4


def softmax_kl(
    student: Float[Tensor, "P C"], teacher: Float[Tensor, "P C"], *, temperature: float
) -> Float[Tensor, "P"]:
    """Return T² · KL(teacher ‖ student) of softmaxes over the classes, in nats.

    Both are logits, divided by the temperature T; the teacher gets no gradient. Only differences
    between the logits of a row count, so that a single class always gives 0. Summed over classes:
    the public code averages over them, which is this value divided by C.

    Source: LD (arXiv 2102.12252); `knowledge_distillation_kl_div_loss` of mmdet.
    """
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def binary_kl(
    student: Float[Tensor, "P C"], teacher: Float[Tensor, "P C"], *, temperature: float
) -> Float[Tensor, "P"]:
    """Return T² · KL(teacher ‖ student) of one yes or no for each class, in nats.

    Both are logits, divided by the temperature T before their sigmoid; the teacher gets no
    gradient. Summed over classes.

    Source: the two-class KL, class by class, as BCKD (ICCV 2023) argues for sigmoid heads.
    """
    target, logits = teacher.detach() / temperature, student / temperature
    yes = target.sigmoid() * (F.logsigmoid(target) - F.logsigmoid(logits))
    # The sigmoid of -z is 1 - sigmoid(z) without its cancellation.
    no = (-target).sigmoid() * (F.logsigmoid(-target) - F.logsigmoid(-logits))
    return temperature**2 * (yes + no).sum(dim=-1)
