import pickle

import pytest
import torch

from ldkit.cache import memory
from ldkit.cache.memory import Memory


@pytest.mark.law
def test_memory_is_lent_again_only_when_no_tensor_looks_at_it() -> None:
    lender = Memory()
    first = lender.take((3, 4))
    place = first.data_ptr()
    detached, row = first.detach(), first[1:]
    del first
    assert lender.take((3, 4)).data_ptr() != place
    del detached
    assert lender.take((3, 4)).data_ptr() != place
    del row
    assert lender.take((3, 4)).data_ptr() == place


@pytest.mark.law
def test_what_a_gradient_needs_is_not_lent_again() -> None:
    lender = Memory()
    teacher, student = lender.take((2, 4)).fill_(3.0), torch.ones(2, 4, requires_grad=True)
    place = teacher.data_ptr()
    loss = (teacher * student).sum()
    del teacher
    assert lender.take((2, 4)).fill_(7.0).data_ptr() != place
    loss.backward()
    assert student.grad is not None
    assert (student.grad == 3).all()


@pytest.mark.contract
def test_a_smaller_answer_takes_the_smallest_block_that_fits() -> None:
    lender = Memory()
    large, small = lender.take((100,)), lender.take((10,))
    places = large.data_ptr(), small.data_ptr()
    del large, small
    again = lender.take((2, 5)), lender.take((2, 7))
    assert (again[1].data_ptr(), again[0].data_ptr()) == places
    assert [tensor.shape for tensor in again] == [(2, 5), (2, 7)]
    assert lender.take((0, 4, 5)).shape == (0, 4, 5)


@pytest.mark.contract
def test_free_blocks_are_few(monkeypatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 2)
    lender = Memory()
    for size in range(1, 50):
        lender.take((size**3,))
    assert len(lender._blocks) <= 3
    many = [lender.take((5,)) for _ in range(50)]
    del many
    lender.take((5,))
    assert len(lender._blocks) <= 3


@pytest.mark.contract
def test_memory_travels_empty() -> None:
    lender = Memory()
    lender.take((1000,))
    assert len(pickle.dumps(lender)) < 100
    assert pickle.loads(pickle.dumps(lender)).take((2,)).shape == (2,)
