import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ldkit.cache.codecs import FP16_MAX, decode, encode
from ldkit.cache.columns import Column
from ldkit.errors import CacheError

BITS32 = Column("main.bbox_logits", "F32", (4, 5), "main.bbox_logits")
BITS16 = Column("main.bbox_logits", "F16", (4, 5), "main.bbox_logits")

LOGITS = arrays(
    np.float32,
    array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
    elements=st.floats(-FP16_MAX, FP16_MAX, width=32),
)


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(logits=LOGITS)
def test_fp32_keeps_every_bit(logits) -> None:
    stored = encode(torch.from_numpy(logits), BITS32, "here")
    assert stored.dtype == np.float32
    assert decode(torch.from_numpy(stored)).numpy().tobytes() == logits.tobytes()


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(logits=LOGITS)
def test_fp16_is_rounding_to_float16_and_nothing_else(logits) -> None:
    stored = encode(torch.from_numpy(logits), BITS16, "here")
    assert stored.dtype == np.float16
    again = encode(decode(torch.from_numpy(stored)), BITS16, "here")
    assert again.tobytes() == stored.tobytes()
    # Half a unit in the last place: 2^-11 of the value, or 2^-25 where float16 is subnormal.
    error = np.abs(stored.astype(np.float64) - logits)
    assert (error <= np.maximum(np.abs(logits) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.contract
@pytest.mark.parametrize("dtype", ["F32", "F16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(dtype, value) -> None:
    with pytest.raises(CacheError) as caught:
        encode(
            torch.tensor([0.0, value]), Column("main.cls_logits", dtype, (3,)), "image 9, view 1"
        )
    assert str(caught.value).startswith(
        "image 9, view 1: the teacher's logits for main.cls_logits are not finite."
    )


@pytest.mark.contract
def test_a_logit_beyond_float16_is_refused_with_the_way_out() -> None:
    assert encode(torch.tensor([65504.0]), BITS16, "here")[0] == 65504
    with pytest.raises(CacheError) as caught:
        encode(torch.tensor([1.0, -65505.0]), BITS16, "image 9, view 1")
    assert str(caught.value) == (
        "image 9, view 1: a logit of size 65505 does not fit into float16, which ends at 65504.\n"
        "Store this column in float32: `--set cache.main.bbox_logits=fp32`."
    )


@pytest.mark.contract
def test_features_are_told_as_numbers_with_the_key_that_stores_them() -> None:
    column = Column("cross.std", "F16", (2, 4), "cross.statistics")
    with pytest.raises(CacheError, match=r"the teacher's numbers for cross\.std are not finite"):
        encode(torch.tensor([torch.nan]), column, "here")
    with pytest.raises(CacheError) as caught:
        encode(torch.tensor([70000.0]), column, "here")
    assert str(caught.value) == (
        "here: a number of size 70000 does not fit into float16, which ends at 65504.\n"
        "Store this column in float32: `--set cache.cross.statistics=fp32`."
    )


@pytest.mark.law
def test_decoding_never_shares_memory_with_what_is_stored() -> None:
    for stored in [torch.ones(3), torch.ones(3, dtype=torch.float16)]:
        decoded = decode(stored)
        stored.zero_()
        assert decoded.tolist() == [1, 1, 1]
