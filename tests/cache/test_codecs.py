import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ldkit.cache.codecs import FP16_MAX, STEPS, decode, encode
from ldkit.cache.columns import Column
from ldkit.errors import CacheError

BITS32 = Column("main.bbox_logits", "F32", (4, 5), "main.bbox_logits")
BITS16 = Column("main.bbox_logits", "F16", (4, 5), "main.bbox_logits")

BYTES = Column("vlr.bbox_logits", "U8", (4, 5), "vlr.bbox_logits")

LOGITS = arrays(
    np.float32,
    array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
    elements=st.floats(-FP16_MAX, FP16_MAX, width=32),
)


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(logits=LOGITS)
def test_fp32_keeps_every_bit(logits) -> None:
    stored = encode(torch.from_numpy(logits), BITS32, "here").values
    assert stored.dtype == np.float32
    assert decode(torch.from_numpy(stored)).numpy().tobytes() == logits.tobytes()


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(logits=LOGITS)
def test_fp16_is_rounding_to_float16_and_nothing_else(logits) -> None:
    stored = encode(torch.from_numpy(logits), BITS16, "here").values
    assert stored.dtype == np.float16
    again = encode(decode(torch.from_numpy(stored)), BITS16, "here").values
    assert again.tobytes() == stored.tobytes()
    # Half a unit in the last place: 2^-11 of the value, or 2^-25 where float16 is subnormal.
    error = np.abs(stored.astype(np.float64) - logits)
    assert (error <= np.maximum(np.abs(logits) * 2.0**-11, 2.0**-25)).all()


def edges(largest: float) -> st.SearchStrategy[np.ndarray]:
    """Return logits of edges of 2 to 65 bins."""
    shapes = st.tuples(st.integers(0, 5), st.sampled_from([1, 4]), st.integers(2, 65))
    numbers = st.floats(-largest, largest, width=32)
    return arrays(np.float32, shapes, elements=numbers, fill=numbers)


def bytes_of(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stored, scale = encode(torch.from_numpy(logits), BYTES, "here")
    assert scale is not None
    assert stored.dtype == scale.dtype == np.uint8
    assert stored.shape == logits.shape
    assert scale.shape == logits.shape[:-1]
    return stored, scale


def decoded(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return decode(torch.from_numpy(stored), torch.from_numpy(scale)).numpy()


@pytest.mark.law
@settings(deadline=None, max_examples=200)
@given(logits=st.one_of(edges(20.0), edges(FP16_MAX), edges(2.0**-13)))
def test_u8_is_wrong_by_half_a_step_at_most(logits) -> None:
    stored, scale = bytes_of(logits)
    found = decoded(stored, scale)
    relative = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    step = STEPS[scale][..., None].astype(np.float64)
    # Beside half a step, the rounding of the product to float32.
    assert (np.abs(found - relative) <= step / 2 + np.abs(relative) * 2.0**-23).all()
    # No step is wider than it must be, but for its rounding to eight widths an octave.
    spread = -relative.min(axis=-1)
    assert (STEPS[scale] <= np.maximum(spread / 255 * 2**0.126, STEPS[0])).all()


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(logits=edges(FP16_MAX))
def test_u8_of_what_was_decoded_is_the_same_bytes_again(logits) -> None:
    stored, scale = bytes_of(logits)
    again, width = bytes_of(decoded(stored, scale))
    assert np.array_equal(again, stored)
    assert np.array_equal(width, scale)


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(
    logits=arrays(np.int32, (3, 4, 17), elements=st.integers(-4000, 4000)),
    shift=st.integers(-30_000, 30_000),
)
def test_u8_forgets_what_is_added_to_all_bins_of_an_edge(logits, shift) -> None:
    logits = (logits / 256).astype(np.float32)  # sums of these are exact
    plain, moved = bytes_of(logits), bytes_of(logits + np.float32(shift))
    assert plain[0].tobytes() == moved[0].tobytes()
    assert plain[1].tobytes() == moved[1].tobytes()


@pytest.mark.law
@pytest.mark.parametrize("value", [0.0, -3.25, FP16_MAX, -FP16_MAX, 1e-30])
@pytest.mark.parametrize("bins", [2, 17, 65])
def test_u8_keeps_a_flat_edge_flat(value, bins) -> None:
    assert not decoded(*bytes_of(np.full((2, 4, bins), value, np.float32))).any()


@pytest.mark.law
def test_u8_keeps_extreme_edges_as_distributions() -> None:
    logits = np.zeros((1, 4, 17), np.float32)
    logits[0, 0, 3], logits[0, 1, 5] = FP16_MAX, -FP16_MAX
    logits[0, 2, ::2], logits[0, 2, 1::2] = FP16_MAX, -FP16_MAX
    logits[0, 3] = np.linspace(-1e-6, 1e-6, 17)
    found = decoded(*bytes_of(logits))
    assert np.isfinite(found).all()
    probability = torch.from_numpy(logits).softmax(-1) - torch.from_numpy(found).softmax(-1)
    assert probability.abs().max() < 1e-6


@pytest.mark.contract
def test_every_byte_is_a_width_and_widths_rise() -> None:
    assert STEPS.shape == (256,)
    assert (np.diff(STEPS) > 0).all()
    assert STEPS[0] == 2.0**-22
    assert STEPS[176] == 1
    assert 255 * STEPS[-1] > 2 * FP16_MAX


@pytest.mark.contract
def test_the_widest_edge_fits_and_the_next_one_does_not() -> None:
    widest = float(255 * STEPS[-1])
    stored = encode(torch.tensor([[[0.0, widest]]]), BYTES, "here")
    assert stored.values.tolist() == [[[255, 0]]]
    assert stored.scale is not None
    assert stored.scale.tolist() == [[255]]
    with pytest.raises(CacheError, match="lie 239686 apart"):
        encode(torch.tensor([[[0.0, widest + 238]]]), BYTES, "here")


@pytest.mark.contract
def test_an_edge_too_wide_for_u8_is_refused_with_the_way_out() -> None:
    with pytest.raises(CacheError) as caught:
        encode(torch.tensor([[[0.0, 1e6, 0.0]]]), BYTES, "image 9, view 1")
    assert str(caught.value) == (
        "image 9, view 1: logits of an edge lie 1e+06 apart; u8 spans 239448.\n"
        "Store this column in float32: `--set cache.vlr.bbox_logits=fp32`."
    )


@pytest.mark.contract
@pytest.mark.parametrize("dtype", ["F32", "F16", "U8"])
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
    assert encode(torch.tensor([65504.0]), BITS16, "here").values[0] == 65504
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


@pytest.mark.law
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_decoding_into_given_memory_gives_the_same(dtype) -> None:
    stored = torch.randint(256, (3, 4, 17)).to(dtype)
    scale = torch.randint(256, (3, 4)).to(torch.uint8) if dtype == torch.uint8 else None
    out = torch.full((3, 4, 17), torch.nan)
    assert decode(stored, scale, out) is out
    assert torch.equal(out, decode(stored, scale))
