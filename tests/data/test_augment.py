"""Views are drawn once; pixels and boxes follow them exactly."""

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ldkit.data.augment import ViewPolicy, read_image, render, render_boxes, resized_size
from ldkit.errors import DataError
from ldkit.ops.pixels import normalise
from ldkit.structures import Size, View, ViewKey
from tests.data.coco_files import encoded, palette_png, turned_by_exif, write_picture

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS = json.loads((GOLDEN / "data_views.json").read_text(encoding="utf-8"))
CASES: dict[str, Any] = {name: case for name, case in FACTS["cases"].items() if name != "pair"}
ARRAYS = load_file(GOLDEN / "data_views.safetensors")
GREY_LEVEL = 1 / 57 + 1e-4
"""One grey level after normalising."""

sides = st.integers(1, 90)
sizes: st.SearchStrategy[Size] = st.tuples(sides, sides)
keys = st.builds(ViewKey, st.integers(0, 2**40), st.integers(0, 30))


@st.composite
def views(draw: st.DrawFn) -> View:
    return draw_view(draw(sizes), draw(sides), draw(st.integers(1, 150)), flip=draw(st.booleans()))


def draw_view(source_hw: Size, short: int, longest: int, *, flip: bool) -> View:
    policy = ViewPolicy(short, longest, 0.5, None, pad_multiple_px=32, seed=0)
    return policy.draw(ViewKey(0, int(flip)), source_hw)


def several(flip: float = 0.5, seed: int = 0, count: int | None = None) -> ViewPolicy:
    return ViewPolicy((480, 800), 1333, flip, count, pad_multiple_px=32, seed=seed)


def golden_view(case: dict[str, Any]) -> tuple[np.ndarray, View]:
    picture = read_image(GOLDEN / f"data_{case['png']}")
    longest, short = case["scale"]
    return picture, draw_view(picture.shape[:2], short, longest, flip=case["flip"])


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_pixels_are_the_published_ones_within_a_grey_level(name: str) -> None:
    case = CASES[name]
    picture, view = golden_view(case)
    assert view.resized_hw == tuple(case["img_shape"])
    assert view.padded_hw == tuple(case["pad_shape"])
    pixels = render(picture, view)
    (height, width), step = view.resized_hw, case["resized_stride"]
    bgr = pixels[::-1, :height, :width].transpose(1, 2, 0)
    distance = np.abs(bgr[::step, ::step].astype(int) - ARRAYS[f"{name}.resized"])
    assert distance.max() <= 1
    assert not pixels[:, height:].any()
    assert not pixels[:, :, width:].any()


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_normalised_pixels_are_the_published_ones(name: str) -> None:
    case = CASES[name]
    picture, view = golden_view(case)
    pixels = torch.from_numpy(render(picture, view))[None]
    ours = normalise(pixels, torch.tensor([view.resized_hw])).numpy()
    step = case["batch_stride"]
    np.testing.assert_allclose(
        ours[:, :, ::step, ::step], ARRAYS[f"{name}.batch"], rtol=0, atol=GREY_LEVEL
    )
    assert abs(ours.sum(dtype=np.float64) - case["batch_sum"]) < 1e-3 * ours.size
    assert not ours[:, :, view.resized_hw[0] :].any()
    assert not ours[:, :, :, view.resized_hw[1] :].any()


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_boxes_are_the_published_ones(name: str) -> None:
    _, view = golden_view(CASES[name])
    ours = render_boxes(ARRAYS[f"{name}.boxes_in"], view)
    np.testing.assert_allclose(ours, ARRAYS[f"{name}.boxes"], rtol=1e-6, atol=1e-4)


@pytest.mark.golden
def test_target_sizes_are_the_published_ones() -> None:
    rows = load_file(GOLDEN / "data_sizes.safetensors")["rows"].tolist()
    for height, width, longest, short, new_height, new_width in rows:
        assert resized_size((height, width), short, longest) == (new_height, new_width)


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(view=views(), data=st.data())
def test_a_drawn_square_stays_inside_its_box(view: View, data: st.DataObject) -> None:
    height, width = view.source_hw
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    box = render_boxes(np.array([[x1, y1, x2, y2]], np.float32), view)[0]
    rows, cols = (np.arange(side) + 0.5 for side in view.padded_hw)
    shown = render(image, view)[0]
    for margin, is_wrong in ((-0.1, shown > 128), (0.1, shown < 50)):
        in_cols = (cols > box[0] + margin) & (cols < box[2] - margin)
        in_rows = (rows > box[1] + margin) & (rows < box[3] - margin)
        inside = in_rows[:, None] & in_cols[None, :]
        assert not is_wrong[inside if margin > 0 else ~inside].any()


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(view=views(), seed=st.integers(0, 9))
def test_flipping_twice_changes_nothing(view: View, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*view.source_hw, 3), dtype=np.uint8)
    corners = np.sort(rng.uniform(-5, 95, (4, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    plain, mirrored = (
        View(view.source_hw, view.resized_hw, view.padded_hw, flip=flip) for flip in (False, True)
    )
    (height, width) = view.resized_hw
    twice = render(image, mirrored)[:, :height, :width][:, :, ::-1]
    np.testing.assert_array_equal(twice, render(image, plain)[:, :height, :width])
    again = View(view.resized_hw, view.resized_hw, view.padded_hw, flip=True)
    boxes = render_boxes(render_boxes(corners, mirrored), again)
    np.testing.assert_allclose(boxes, render_boxes(corners, plain), rtol=0, atol=1e-4)


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(view=views(), seed=st.integers(0, 9))
def test_rendered_boxes_have_corners_in_order_inside_the_resized_image(
    view: View, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(-9, 99, (5, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    rendered = render_boxes(boxes, view)
    height, width = view.resized_hw
    assert (rendered[:, :2] <= rendered[:, 2:]).all()
    assert (rendered >= 0).all()
    assert (rendered <= np.array([width, height] * 2)).all()
    assert render_boxes(boxes[:0], view).shape == (0, 4)


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(size=sizes)
def test_a_view_of_the_same_size_shows_the_image_itself(size: Size) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    view = draw_view(size, min(size), max(size), flip=False)
    assert view.resized_hw == size
    shown = render(image, view)
    np.testing.assert_array_equal(shown[:, : size[0], : size[1]].transpose(1, 2, 0), image)
    assert all(
        padded % 32 == 0 and padded - side < 32
        for padded, side in zip(view.padded_hw, size, strict=True)
    )


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(wanted=st.lists(keys, min_size=1, max_size=8), seed=st.integers(0, 99), size=sizes)
def test_drawing_is_pure_and_knows_no_order(wanted: list[ViewKey], seed: int, size: Size) -> None:
    policy = several(seed=seed)
    first = [policy.draw(key, size) for key in wanted]
    copy = pickle.loads(pickle.dumps(policy))
    assert [copy.draw(key, size) for key in reversed(wanted)] == first[::-1]


@pytest.mark.law
def test_a_range_is_drawn_evenly_with_both_ends() -> None:
    policy = ViewPolicy((480, 487), 1333, 0.25, None, pad_multiple_px=32, seed=3)
    drawn = [policy.draw(ViewKey(n, 0), (600, 600)) for n in range(2000)]
    shorts = [min(view.resized_hw) for view in drawn]
    assert sorted(set(shorts)) == list(range(480, 488))
    assert all(180 < shorts.count(size) < 320 for size in set(shorts))
    assert 400 < sum(view.flip for view in drawn) < 600


@pytest.mark.law
@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_epochs_of_one_size_show_the_mirrored_view_as_often_as_asked(flip: float) -> None:
    policy = ViewPolicy(800, 1333, flip, None, pad_multiple_px=32, seed=0)
    shown = [policy.view_of_epoch(epoch, image) for epoch in range(12) for image in range(200)]
    assert abs(sum(shown) / len(shown) - flip) < 0.05
    assert set(shown) <= set(range(policy.views_per_image(12)))


@pytest.mark.law
def test_epochs_of_a_range_show_every_view_in_turn() -> None:
    assert [several().view_of_epoch(epoch, 7) for epoch in range(3)] == [0, 1, 2]
    assert [several(count=2).view_of_epoch(epoch, 7) for epoch in range(4)] == [0, 1, 0, 1]
    assert several().views_per_image(24) == 24
    assert several(count=2).views_per_image(24) == 2


@pytest.mark.contract
def test_draws_are_the_same_in_every_version() -> None:
    drawn = [several(seed=5).draw(ViewKey(397133, view), (427, 640)) for view in range(4)]
    assert [(view.resized_hw, view.flip) for view in drawn] == [
        ((628, 941), True),
        ((575, 862), False),
        ((548, 821), True),
        ((504, 755), False),
    ]


@pytest.mark.contract
def test_evaluation_shows_the_plain_view_at_the_largest_size() -> None:
    view = several(flip=1.0).plain_view((480, 640))
    assert view == View((480, 640), (800, 1067), (800, 1088), flip=False)
    assert several().draw_plain(ViewKey(3, 9), (480, 640)) == view


@pytest.mark.contract
def test_a_view_that_the_policy_does_not_have_is_refused() -> None:
    one_size = ViewPolicy(800, 1333, 0.5, None, pad_multiple_px=32, seed=0)
    for policy, view in ((one_size, 2), (several(count=3), 3), (several(), -1)):
        with pytest.raises(ValueError, match=f"view {view}"):
            policy.draw(ViewKey(1, view), (10, 10))
    with pytest.raises(ValueError, match="cannot render"):
        render(np.zeros((9, 9, 3), np.uint8), one_size.plain_view((8, 8)))


@pytest.mark.contract
def test_every_kind_of_picture_becomes_rgb_of_8_bits(tmp_path: Path) -> None:
    rgb = write_picture(tmp_path / "rgb.png", (12, 17))
    bgr, grey = rgb[:, :, ::-1], rgb[:, :, 0]
    alpha = np.dstack([bgr, grey])
    wide = rgb[:, :, ::-1].astype(np.uint16) * 257
    palette = np.arange(768).reshape(256, 3) % 256
    pictures = {
        "grey": (encoded(grey, ".png"), np.dstack([grey] * 3)),
        "grey16": (encoded(grey.astype(np.uint16) * 257, ".png"), np.dstack([grey] * 3)),
        "rgb16": (encoded(wide, ".png"), rgb),
        "rgba": (encoded(alpha, ".png"), rgb),
        "palette": (palette_png(grey, palette), palette[grey]),
        "bmp": (encoded(bgr, ".bmp"), rgb),
    }
    for name, (content, expected) in pictures.items():
        path = tmp_path / name
        path.write_bytes(content)
        image = read_image(path)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected, err_msg=name)


@pytest.mark.contract
def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    content = encoded(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8), ".jpg")
    (tmp_path / "plain.jpg").write_bytes(content)
    (tmp_path / "turned.jpg").write_bytes(turned_by_exif(content))
    assert cv2.imread(str(tmp_path / "turned.jpg")).shape == (40, 24, 3)
    np.testing.assert_array_equal(
        read_image(tmp_path / "turned.jpg"), read_image(tmp_path / "plain.jpg")
    )


@pytest.mark.contract
def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    jpeg = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), ".jpg")
    thumbnail = jpeg[:2] + b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg + jpeg[2:]
    broken = {
        "empty.jpg": (b"", "cut off after 0 bytes"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cut off after"),
        "cut_with_thumbnail.jpg": (thumbnail[:-9], "cut off after"),
        "page.jpg": (b"<html>404</html>", "damaged, or of an unknown format"),
    }
    for name, (content, reason) in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=reason) as caught:
            read_image(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
    for missing in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_image(missing)
