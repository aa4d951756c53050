"""Boxes in images: what evaluation would find, in pixels of the image, with pictures beside it."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ldkit.data.augment import read_image, render
from ldkit.errors import LdkitError
from ldkit.jobs import assemble, import_teacher, predict
from ldkit.jobs.progress import Progress
from ldkit.jobs.targets import target
from ldkit.ops.decode import decode
from ldkit.ops.pixels import normalise
from ldkit.structures import View, resized_sizes
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, told
from tests.models.mmdet_files import older_file, save
from tests.models.published import fill, published_detector, rule
from tests.models.whole_model import close, read_golden

PICTURES = Path(__file__).parents[1] / "golden"
LOW = 0.02  # a model of a few steps is sure of nothing


@pytest.fixture(scope="module")
def r18(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model file of the reference's weights, by way of a published checkpoint."""
    folder = tmp_path_factory.mktemp("r18")
    path, out = folder / "published.pth", folder / "r18.pt"
    names = read_golden("models_r18").facts["state_keys"]
    state = {n: rule(n, torch.Size(s)) for n, s in names if not n.endswith("integral.project")}
    finish(import_teacher.run(save(older_file(state, None), path), out))
    path.unlink()
    yield out
    out.unlink()


@pytest.mark.golden
def test_an_imported_model_finds_the_recorded_boxes_in_the_recorded_images(r18: Path) -> None:
    golden = read_golden("models_r18")
    goal = target(r18, ["eval.topk=pairs"])
    looking = predict._looking(goal, score=0.05, device="cpu")
    view = View(source_hw=(320, 384), resized_hw=(160, 192), padded_hw=(160, 192), flip=False)
    found = predict.detections(looking.model, golden.image, (view, view), looking.settings)
    for image, detections in enumerate(found):
        close(detections.scores, golden.tensors[f"pred.img{image}.scores"])
        boxes = golden.tensors[f"pred.img{image}.boxes"]
        torch.testing.assert_close(detections.boxes, boxes, rtol=1e-4, atol=1e-2)
        assert torch.equal(detections.labels, golden.tensors[f"pred.img{image}.labels"])


@pytest.mark.golden
@pytest.mark.parametrize("name", ["data_a.png", "data_b.png"])
def test_an_imported_model_sees_images_as_the_model_itself_does(name: str, r18: Path) -> None:
    overrides = ["views.short_side_px=160", "views.long_side_max_px=192"]
    found = finish(predict.run(r18, [PICTURES / name], overrides=overrides, score=0.05))[0]
    model = published_detector("resnet18").eval()
    fill(model)
    recipe = target(r18, overrides).recipe
    pixels = read_image(PICTURES / name)
    view = assemble.view_policy(recipe.views, 0).plain_view((pixels.shape[0], pixels.shape[1]))
    rendered = torch.from_numpy(render(pixels, view))[None]
    images = normalise(rendered, resized_sizes((view,), torch.device("cpu")))
    settings = assemble.decode_settings(recipe.eval)
    with torch.no_grad():
        expected = decode(model(images), model.grid, view.padded_hw, (view,), settings)[0]
    assert len(found.boxes) == len(expected.scores) > 10
    assert [box.label for box in found.boxes] == expected.labels.tolist()
    assert [box.score for box in found.boxes] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    corners = torch.tensor([box.corners for box in found.boxes])
    torch.testing.assert_close(corners, expected.boxes, rtol=0, atol=0.02)


@pytest.mark.contract
def test_every_image_is_answered_in_order_with_what_a_machine_needs(world: World) -> None:
    images = [world.data / "val" / f"{number}.png" for number in (2, 1)]
    messages = told(predict.run(world.teacher, images, score=LOW))
    assert messages == [Progress(1, 2, "images"), Progress(2, 2, "images")]
    found = [each.as_dict() for each in finish(predict.run(world.teacher, images, score=LOW))]
    assert [each["image"] for each in found] == [str(image) for image in images]
    for each in found:
        assert (each["width"], each["height"]) == (64, 64)
        assert "picture" not in each
        assert len(each["boxes"]) > 0
        scores = [box["score"] for box in each["boxes"]]
        assert scores == sorted(scores, reverse=True)
        for box in each["boxes"]:
            assert box["class"] in ("bar", "disc", "frame")
            x1, y1, x2, y2 = box["box"]
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64


@pytest.mark.contract
def test_a_higher_score_leaves_the_better_boxes(world: World) -> None:
    image = world.data / "val" / "1.png"
    every = finish(predict.run(world.teacher, [image], score=LOW))[0].boxes
    limit = every[len(every) // 2].score
    better = finish(predict.run(world.teacher, [image], score=limit))[0].boxes
    assert better == tuple(box for box in every if box.score > limit)
    assert finish(predict.run(world.teacher, [image], score=1.0))[0].boxes == ()


@pytest.mark.contract
def test_a_run_folder_is_a_model_too(world: World) -> None:
    image = world.data / "val" / "1.png"
    by_file = finish(predict.run(world.teacher, [image], score=LOW))
    assert finish(predict.run(world.teacher.parent, [image], score=LOW)) == by_file


@pytest.mark.contract
def test_pictures_show_the_boxes_and_keep_names_and_sizes(world: World, tmp_path: Path) -> None:
    source = cv2.imread(str(world.data / "val" / "1.png"))
    large = cv2.resize(source, (256, 256))
    images = [tmp_path / name for name in ("a.jpg", "b.bmp")]
    for image in images:
        assert cv2.imwrite(str(image), large)
    folder = tmp_path / "out" / "pictures"
    found = finish(predict.run(world.teacher, images, score=LOW, draw=folder))
    assert [each.picture for each in found] == [folder / "a.jpg", folder / "b.bmp.png"]
    for each in found:
        assert each.as_dict()["picture"] == str(each.picture)
        painted = cv2.imread(str(each.picture))
        assert painted.shape == (256, 256, 3)
        assert (np.abs(painted.astype(int) - large) > 60).any()


def refused(world: World, images: list[Path], draw: Path | None = None) -> str:
    with pytest.raises(LdkitError) as caught:
        finish(predict.run(world.teacher, images, draw=draw))
    return str(caught.value)


@pytest.mark.contract
def test_images_that_cannot_be_looked_at_are_told(world: World, tmp_path: Path) -> None:
    good = world.data / "val" / "1.png"
    absent = tmp_path / "absent.png"
    assert (
        refused(world, [good, absent]) == f"{absent}: does not exist.\nNothing was looked at yet."
    )
    assert "is a folder; name the images in it." in refused(world, [tmp_path])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert f"{broken}: the image cannot be read: the file is damaged" in refused(world, [broken])


@pytest.mark.contract
def test_a_picture_never_replaces_an_image_or_another_picture(world: World, tmp_path: Path) -> None:
    good = world.data / "val" / "1.png"
    before = good.read_bytes()
    text = refused(world, [good], draw=good.parent)
    assert text == (
        f"{good}: is one of the images, and its picture would replace it.\n"
        "Name another folder with `--draw`."
    )
    assert good.read_bytes() == before
    twin = tmp_path / "1.png"
    twin.write_bytes(before)
    text = refused(world, [good, twin], draw=tmp_path / "pictures")
    assert "would be the picture of more than one image." in text
    assert "is a file, but a folder is needed." in refused(world, [good], draw=twin)
    assert not (tmp_path / "pictures").exists()
