"""Optimizers over a model: every trainable parameter in exactly one group."""

import torch
from torch import nn


def sgd(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return SGD that decays every trainable parameter, norms and biases included.

    Source: the published GFL and LD recipes (momentum 0.9, weight decay 1e-4, no Nesterov).
    """
    parameters = trainable_parameters(model)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


def adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW that decays matrices and kernels, but no vectors and scalars.

    Vectors and scalars are biases, the weights of norms, and the scales of the head's levels.
    """
    parameters = trainable_parameters(model)
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return every parameter that takes a gradient, each once, in the order of the modules."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
