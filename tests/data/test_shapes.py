"""The embedded data set: the same for the same seed, with true boxes, as files COCO tools read."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ldkit.data.scene import LEAST_VISIBLE, REFERENCE_PX, Scene, draw_scene
from ldkit.data.shape_outlines import CLASSES
from ldkit.data.shapes import write_shapes
from ldkit.errors import LdkitError, StorageError, UsageError

KINDS = {"sharp", "faded", "blurred", "occluded"}


def scene_of(number: int, *, size_px: int = 128, ambiguous: float = 0.2) -> Scene:
    return draw_scene(np.random.default_rng([5, number]), size_px=size_px, ambiguous=ambiguous)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene_of(number) for number in range(200)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, seed=3, train_images=60, val_images=12)
    return folder


def document(root: Path, split: str = "train") -> dict[str, Any]:
    text = (root / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.law
def test_the_same_seed_writes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, seed=3, train_images=60, val_images=12)
    assert contents(tmp_path) == contents(root)


@pytest.mark.law
def test_another_seed_draws_other_scenes(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, seed=4, train_images=1, val_images=1)
    name = "train/000001.jpg"
    assert contents(tmp_path)[name] != contents(root)[name]


@pytest.mark.law
def test_an_image_does_not_depend_on_how_many_are_written(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, seed=3, train_images=4, val_images=2)
    few, many = contents(tmp_path), contents(root)
    for name in few:
        if name.endswith(".jpg"):
            assert few[name] == many[name], name
    for split in ("train", "val"):
        first = document(tmp_path, split)["annotations"]
        assert document(root, split)["annotations"][: len(first)] == first


@pytest.mark.law
def test_train_and_val_are_different_scenes(root: Path) -> None:
    files = contents(root)
    assert files["train/000001.jpg"] != files["val/000001.jpg"]


@pytest.mark.law
@pytest.mark.parametrize("size_px", [64, 128, 200])
def test_a_box_is_the_extent_of_the_drawn_silhouette(size_px: int) -> None:
    for number in range(40):
        scene = scene_of(number, size_px=size_px)
        for placed, shape in zip(scene.objects, scene.shapes, strict=True):
            columns = np.flatnonzero((shape > 0).any(axis=0))
            rows = np.flatnonzero((shape > 0).any(axis=1))
            outermost = np.array([columns[0], rows[0], columns[-1], rows[-1]]) + 0.5
            np.testing.assert_allclose(placed.box, outermost, atol=0.8)
            assert min(placed.box) >= 0
            assert max(placed.box) <= size_px


@pytest.mark.law
def test_outside_the_boxes_there_is_only_the_grey_ground() -> None:
    scene = scene_of(7, ambiguous=0.0)
    colour = scene.pixels.astype(np.float32).std(axis=2)
    inside = np.zeros(colour.shape, dtype=bool)
    for x1, y1, x2, y2 in (placed.box for placed in scene.objects):
        inside[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
    assert colour[~inside].max() < np.percentile(colour[inside], 75)


@pytest.mark.law
def test_scenes_hold_one_to_twelve_objects_of_every_class(scenes: list[Scene]) -> None:
    counts = [len(scene.objects) for scene in scenes]
    assert min(counts) >= 1
    assert 10 <= max(counts) <= 12
    assert 4 < np.mean(counts) < 6.5
    labels = {placed.label for scene in scenes for placed in scene.objects}
    assert labels == set(range(len(CLASSES)))
    assert len(CLASSES) >= 8


@pytest.mark.law
def test_every_object_stays_visible(scenes: list[Scene]) -> None:
    visible = [placed.visible for scene in scenes for placed in scene.objects]
    assert min(visible) >= LEAST_VISIBLE - 1e-4
    assert np.mean(np.array(visible) < 0.95) > 0.2, "objects should hide parts of others"


@pytest.mark.law
def test_the_share_of_soft_edges_is_the_one_asked_for() -> None:
    alone = [scene_of(number, ambiguous=0.3) for number in range(200)]
    designed = [scene.objects[-1] for scene in alone]  # nothing lies over the last object
    kinds = [edge.kind for placed in designed for edge in placed.edges]
    assert abs(np.mean([kind != "sharp" for kind in kinds]) - 0.3) < 0.06
    assert set(kinds) == KINDS


@pytest.mark.law
def test_without_ambiguity_only_covered_edges_are_soft() -> None:
    for number in range(30):
        scene = scene_of(number, ambiguous=0.0)
        for placed in scene.objects:
            assert {edge.kind for edge in placed.edges} <= {"sharp", "occluded"}
        assert {edge.kind for edge in scene.objects[-1].edges} == {"sharp"}


@pytest.mark.law
def test_softness_is_zero_exactly_where_an_edge_is_sharp(scenes: list[Scene]) -> None:
    edges = [edge for scene in scenes for placed in scene.objects for edge in placed.edges]
    for edge in edges:
        assert (edge.softness == 0) == (edge.kind == "sharp")
        assert 0 <= edge.softness <= 1


@pytest.mark.law
def test_sizes_are_shared_out_as_in_coco(scenes: list[Scene]) -> None:
    box_G4 = np.array([placed.box for scene in scenes for placed in scene.objects])
    area_G = np.prod(box_G4[:, 2:] - box_G4[:, :2], axis=1) * (REFERENCE_PX / 128) ** 2
    shares = [(area_G < 32**2).mean(), (area_G < 96**2).mean(), 1.0]
    np.testing.assert_allclose(np.diff([0, *shares]), [0.40, 0.35, 0.25], atol=0.05)


@pytest.mark.contract
def test_validation_boxes_are_exact_and_training_boxes_noisy(root: Path) -> None:
    for row in document(root, "val")["annotations"]:
        assert row["bbox"] == row["true_bbox"]
    boxes = np.array([row["bbox"] for row in document(root)["annotations"]])
    true_boxes = np.array([row["true_bbox"] for row in document(root)["annotations"]])
    error = (boxes[:, :2] - true_boxes[:, :2]) / true_boxes[:, 2:]
    softness = np.array([row["softness"][:2] for row in document(root)["annotations"]])
    assert 0.02 < error[softness == 0].std() < 0.04
    assert error[softness > 0.5].std() > 1.4 * error[softness == 0].std()


@pytest.mark.contract
def test_boxes_lie_in_their_image_and_have_a_size(root: Path) -> None:
    for split in ("train", "val"):
        for row in document(root, split)["annotations"]:
            x, y, width, height = row["bbox"]
            assert 0 <= x < x + width <= 128
            assert 0 <= y < y + height <= 128


@pytest.mark.contract
def test_each_annotation_records_its_four_edges(root: Path) -> None:
    rows = document(root)["annotations"]
    for row in rows:
        assert len(row["softness"]) == len(row["softness_kind"]) == 4
    assert {kind for row in rows for kind in row["softness_kind"]} == KINDS


@pytest.mark.contract
def test_pycocotools_reads_the_annotations_and_opencv_the_images(root: Path) -> None:
    for split, count in (("train", 60), ("val", 12)):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(root / "annotations" / f"instances_{split}.json"))
        assert len(coco.imgs) == count
        assert [row["name"] for row in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image in coco.imgs.values():
            pixels = cv2.imread(str(root / split / image["file_name"]))
            assert pixels is not None
            assert pixels.shape == (image["height"], image["width"], 3)
            assert coco.getAnnIds(imgIds=image["id"])


@pytest.mark.contract
def test_the_file_says_how_areas_are_counted(root: Path) -> None:
    read = document(root)
    scale = read["info"]["area_scale"]
    assert scale == (224 / 128) ** 2
    assert "area_scale" in read["info"]["description"]
    for row in read["annotations"]:
        assert row["area"] == pytest.approx(row["bbox"][2] * row["bbox"][3] * scale, abs=0.01)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size_px": 48}, "size_px: is 48, but must be at least 64."),
        ({"train_images": 0}, "train_images: is 0, but must be at least 1."),
        ({"val_images": -2}, "val_images: is -2, but must be at least 1."),
        ({"seed": -1}, "seed: is -1, but must be at least 0."),
        ({"label_noise": 0.5}, "label_noise: is 0.5, but must lie between 0 and 0.2."),
        ({"ambiguous": float("nan")}, "ambiguous: is nan, but must lie between 0 and 0.5."),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    arguments: dict[str, Any] = {"seed": 0, "train_images": 1, "val_images": 1} | change
    with pytest.raises(UsageError) as caught:
        write_shapes(tmp_path / "new", **arguments)
    assert str(caught.value) == f"{text}\nNothing was written."
    assert not (tmp_path / "new").exists()


@pytest.mark.contract
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    "text",
    [
        '{"info": {"description": "COCO 2017"}, "images": []}',
        '{"info": {"description": ["Drawn shapes of ldkit"]}}',
        '{"info": "Drawn shapes of ldkit", "images": []}',
        '{"images": [], "annotations": []}',
        '["Drawn shapes of ldkit"]',
        '{"info": {"description": "Drawn shapes of ldkit',
        "",
    ],
)
def test_annotations_of_the_user_are_not_drawn_over(tmp_path: Path, split: str, text: str) -> None:
    write_shapes(tmp_path, seed=0, train_images=1, val_images=1, size_px=64)
    mine = tmp_path / "annotations" / f"instances_{split}.json"
    mine.write_text(text, encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_shapes(tmp_path, seed=1, train_images=2, val_images=2, size_px=64)
    assert str(caught.value) == (
        f"{mine}: is there already, and ldkit did not draw it.\n"
        "Nothing was written. Draw in another folder, or move this file away."
    )
    assert contents(tmp_path) == before


@pytest.mark.contract
def test_a_link_that_leads_nowhere_is_the_users(tmp_path: Path) -> None:
    link = tmp_path / "annotations" / "instances_val.json"
    link.parent.mkdir()
    link.symlink_to("elsewhere.json")
    with pytest.raises(UsageError, match=r"instances_val\.json: is there already"):
        write_shapes(tmp_path, seed=0, train_images=1, val_images=1)
    assert link.is_symlink()
    assert not (tmp_path / "train").exists()


@pytest.mark.law
def test_a_drawing_is_drawn_anew_in_its_place(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, seed=4, train_images=60, val_images=12)
    write_shapes(tmp_path, seed=3, train_images=60, val_images=12)
    assert contents(tmp_path) == contents(root)


@pytest.mark.contract
def test_a_file_in_the_place_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("not a folder", encoding="utf-8")
    with pytest.raises(StorageError, match="train is a file, not a folder"):
        write_shapes(tmp_path, seed=0, train_images=1, val_images=1)


@pytest.mark.contract
def test_a_full_disk_leaves_no_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path, seed=0, train_images=1, val_images=1)
    real = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        if path.name == "000002.jpg":
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(LdkitError, match="No space left on device"):
        write_shapes(tmp_path, seed=0, train_images=3, val_images=1)
    assert not list((tmp_path / "annotations").glob("*.json"))
