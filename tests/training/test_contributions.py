import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ldkit.structures import LossTerms
from ldkit.training.contributions import gradient_norms, shares

VALUES = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1e6), min_size=1)


@pytest.mark.law
def test_a_norm_is_that_of_the_gradient_of_its_term_alone() -> None:
    first, second = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    terms = LossTerms(
        cls=first.sum() * 3.0,
        box=first[0] * second,
        dfl=torch.tensor(5.0),
        imitation=second * second,
    )
    assert gradient_norms(terms, [first, second]) == pytest.approx(
        {"cls": math.sqrt(18), "box": math.sqrt(9 + 1), "dfl": 0.0, "imitation": 6.0}
    )


@pytest.mark.law
def test_the_backward_pass_that_follows_gives_the_same_bits() -> None:
    def terms_of(net: nn.Module) -> LossTerms:
        out = net(torch.linspace(-1, 1, 36).view(1, 1, 6, 6))
        return LossTerms(out.square().sum(), out.abs().sum(), out.std())

    nets = []
    for measured in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 1, 3))
        terms = terms_of(net)
        if measured:
            gradient_norms(terms, list(net.parameters()))
            assert all(parameter.grad is None for parameter in net.parameters())
        terms.total.backward()
        nets.append(net)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.law
@given(VALUES)
def test_shares_sum_to_one_where_there_is_anything_to_share(values: dict[str, float]) -> None:
    found = shares(values)
    assert found.keys() == values.keys()
    assert all(0 <= share <= 1 for share in found.values())
    assert sum(found.values()) == pytest.approx(1.0 if sum(values.values()) else 0.0)


@pytest.mark.contract
def test_of_nothing_every_term_has_no_share() -> None:
    assert shares({"cls": 0.0, "box": 0.0}) == {"cls": 0.0, "box": 0.0}
    assert shares({"cls": 3.0, "box": 1.0}) == {"cls": 0.75, "box": 0.25}
