"""What each loss term contributes to a step: its share of the loss, and its gradient's norm.

A term whose gradient vanishes beside the others teaches nothing, and one that drowns them undoes
them; neither shows in the total. Measuring costs one more backward pass for each term.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ldkit.structures import LossTerms


def gradient_norms(terms: LossTerms, parameters: Sequence[Tensor]) -> dict[str, float]:
    """Return the norm of each term's gradient over the parameters, 0 where it reaches none.

    The graph stays, and no `grad` changes: the backward pass of the step can follow.
    """
    named = {name: term for name, term in terms._asdict().items() if term is not None}
    norms = torch.stack([_norm(term, parameters) for term in named.values()]).tolist()
    return dict(zip(named, norms, strict=True))


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """Return what part of the total each value is; all are 0 where the total is."""
    total = sum(values.values())
    return {name: value / total if total else 0.0 for name, value in values.items()}


def _norm(term: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    if not term.requires_grad:
        return torch.zeros_like(term)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    return norms.square().sum().sqrt()
