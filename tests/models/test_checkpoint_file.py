"""Model files: what goes in comes out, and nothing else is ever taken for one."""

import dataclasses
import json
import resource
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ldkit.errors import CheckpointError, StorageError, UsageError
from ldkit.models.backbone import small_backbone
from ldkit.models.checkpoint_file import (
    ModelFile,
    load_weights,
    read_model,
    refuse_unknown_ending,
    weights_fingerprint,
    write_model,
)
from ldkit.models.fpn import Fpn
from ldkit.models.gfl import Detector, GflHead
from ldkit.structures import Grid

ENDINGS = (".pt", ".safetensors")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def some_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {f"of.{dtype}": torch.randn(3, 2, generator=generator).to(dtype) for dtype in DTYPES}
    weights["scalar"] = torch.tensor(1.5)
    weights["nothing"] = torch.zeros(0, 4)
    wide = torch.randn(2, 4, 3, 3, generator=generator)
    weights["channels_last"] = wide.to(memory_format=torch.channels_last)
    weights["view"] = wide[:, 1]
    return weights


def some_file(weights: dict[str, Tensor] | None = None) -> ModelFile:
    return ModelFile(
        weights=some_weights() if weights is None else weights,
        detector={"backbone": {"name": "small", "width": 8}, "head": {"bin_width": 0.5}},
        classes=("Katze", "猫", "a, b"),
        origin={"ldkit": "0.1.0", "recipe": "shapes/teacher"},
    )


def small_detector() -> Detector:
    backbone = small_backbone(4, 1, (3, 4))
    head = GflHead(8, 3, 1, 4, 8, Grid((8, 16), 4.0))
    return Detector(backbone, Fpn(backbone.channels, 8, (3, 4)), head)


@pytest.mark.contract
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_file_gives_back_what_was_written(tmp_path: Path, ending: str) -> None:
    path, written = tmp_path / f"model{ending}", some_file()
    write_model(path, written)
    read = read_model(path)
    assert (read.detector, read.classes, read.origin) == (
        written.detector,
        written.classes,
        written.origin,
    )
    assert set(read.weights) == set(written.weights)
    for name, tensor in written.weights.items():
        assert read.weights[name].dtype == tensor.dtype
        assert torch.equal(read.weights[name], tensor)
    assert read.fingerprint == written.fingerprint
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.contract
@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_contents_give_equal_bytes(tmp_path: Path, ending: str) -> None:
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
    write_model(first, some_file())
    weights = {name: tensor.contiguous() for name, tensor in some_weights().items()}
    write_model(second, some_file(weights))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(
    name=st.text(min_size=1, max_size=5),
    values=st.lists(st.floats(-4, 4, width=16), min_size=2, max_size=6),
)
def test_a_fingerprint_belongs_to_names_types_shapes_and_values(
    name: str, values: list[float]
) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    base = weights_fingerprint({name: tensor, f"{name}'": tensor})
    assert base == weights_fingerprint({f"{name}'": tensor.clone(), name: tensor.clone()})
    others = (
        {f"{name}!": tensor, f"{name}'": tensor},
        {name: tensor.half(), f"{name}'": tensor},
        {name: tensor[None], f"{name}'": tensor},
        {name: tensor + 1, f"{name}'": tensor},
        {name: tensor},
    )
    assert len({base, *(weights_fingerprint(other) for other in others)}) == 6


@pytest.mark.law
def test_a_fingerprint_does_not_see_the_memory_layout() -> None:
    tensor = torch.randn(2, 4, 3, 3)
    last = tensor.to(memory_format=torch.channels_last)
    assert weights_fingerprint({"w": tensor}) == weights_fingerprint({"w": last})


@pytest.mark.contract
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_detector_comes_back_and_only_itself_is_in_the_file(tmp_path: Path, ending: str) -> None:
    student = small_detector().eval().to(memory_format=torch.channels_last)
    path = tmp_path / f"student{ending}"
    write_model(path, some_file(student.state_dict()))
    twin = small_detector().eval().to(memory_format=torch.channels_last)
    load_weights(twin, read_model(path).weights, str(path))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(student(images).bbox_logits, twin(images).bbox_logits)
    # A second network would have to be among these fields or in these bytes.
    fields = [field.name for field in dataclasses.fields(ModelFile)]
    assert fields == ["weights", "detector", "classes", "origin"]
    size = sum(tensor.nbytes for tensor in student.state_dict().values())
    assert path.stat().st_size < size + 400 * len(student.state_dict()) + 1000


@pytest.mark.contract
def test_weights_that_do_not_fit_are_listed_and_nothing_is_loaded() -> None:
    model = small_detector()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: tensor + 1 for name, tensor in before.items()}
    del weights["head.scales.0"]
    weights["head.cls_logits.bias"] = torch.zeros(80)
    weights["teacher.backbone.conv1.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, weights, "student.pt")
    assert str(caught.value) == (
        "student.pt: does not fit this detector.\n"
        "  missing     head.scales.0\n"
        "  misshapen   head.cls_logits.bias: (80,) in the file, (3,) here\n"
        "  unexpected  teacher.backbone.conv1.weight\n"
        "The file belongs to another architecture, number of classes or reg_max."
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.contract
def test_long_lists_of_misfits_are_cut() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(nn.Sequential(*(nn.Linear(1, 1) for _ in range(10))), {}, "x.pt")
    assert caught.value.message.splitlines()[-1] == "  … and 12 more"


@pytest.mark.contract
@pytest.mark.parametrize("name", ["model", "model.pth", "model.onnx"])
def test_other_endings_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"which ends in \.pt or \.safetensors") as caught:
        write_model(tmp_path / name, some_file())
    assert caught.value.hint == f"For example {tmp_path / 'model.pt'}."
    assert not list(tmp_path.iterdir())
    refuse_unknown_ending(tmp_path / "model.pt")


@pytest.mark.contract
def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    for name, message in (
        ("missing.pt", "does not exist."),
        ("folder.pt", "is a folder, but an ldkit model file is expected."),
        ("empty.pt", "is empty, but an ldkit model file is expected."),
    ):
        with pytest.raises(CheckpointError) as caught:
            read_model(tmp_path / name)
        assert caught.value.message == message
        assert caught.value.where == str(tmp_path / name)
        assert caught.value.hint.startswith("Take a model file that ldkit wrote (.pt or .safe")


class Trap:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.contract
def test_files_of_other_tools_are_no_model_files_and_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    sprung = tmp_path / "sprung"
    state = OrderedDict(some_weights())
    foreign: list[tuple[object, str]] = [
        ({"meta": {"epoch": 12}, "state_dict": state}, "the entries 'meta', 'state_dict'."),
        ({"meta": np.float64(1.0), "state_dict": state}, "more than tensors and text"),
        ({"trap": Trap(sprung)}, "more than tensors and text"),
        (dict(state), "tensors (of.torch.float32, of.torch.float16, of.torch.bfloat16, …)"),
        ({}, "0 tensors (none, …)"),
        ([1, 2], "one list."),
        (torch.zeros(2), "one Tensor."),
        ({"ldkit": "{}", "weights": {"a": 1}}, "the entries 'ldkit', 'weights'."),
    ]
    for content, found in foreign:
        torch.save(content, path)
        with pytest.raises(CheckpointError) as caught:
            read_model(path)
        assert caught.value.message.startswith("is not an ldkit model file: it holds ")
        assert found in caught.value.message
    assert not sprung.exists()


@pytest.mark.contract
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "content", [b"just a text\n", b"\x00" * 100, b"PK\x03\x04 no zip", b"\x80"]
)
def test_files_without_tensors_are_no_model_files(
    tmp_path: Path, ending: str, content: bytes
) -> None:
    path = tmp_path / f"text{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not an ldkit model file"):
        read_model(path)


@pytest.mark.contract
def test_tensors_alone_are_no_model_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"it holds 1 tensors \(w, none, …\) and nothing"):
        read_model(path)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"format": "other"}, "format: Input should be 'ldkit model'"),
        ({"classes": 3}, "classes: "),
        ({"teacher": {}}, "teacher: Extra inputs are not permitted"),
    ],
)
def test_descriptions_that_cannot_be_read_are_named(
    tmp_path: Path, change: dict[str, object], found: str
) -> None:
    path = tmp_path / "model.pt"
    write_model(path, some_file())
    content = torch.load(path, weights_only=True)
    content["ldkit"] = json.dumps(json.loads(content["ldkit"]) | change)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="has a description that cannot be read") as caught:
        read_model(path)
    assert found in caught.value.message
    assert "newer ldkit" in caught.value.hint


@pytest.fixture(scope="module", params=ENDINGS)
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("files") / f"model{request.param}"
    write_model(path, some_file())
    return path


@pytest.mark.law
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_truncated_file_is_refused(intact: Path, data: st.DataObject) -> None:
    content = intact.read_bytes()
    damaged = intact.with_name(f"damaged{intact.suffix}")
    damaged.write_bytes(content[: data.draw(st.integers(1, len(content) - 1))])
    with pytest.raises(CheckpointError) as caught:
        read_model(damaged)
    assert caught.value.where == str(damaged)


@pytest.mark.law
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing(intact: Path, data: st.DataObject) -> None:
    content = bytearray(intact.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = intact.with_name(f"flipped{intact.suffix}")
    damaged.write_bytes(content)
    try:
        read = read_model(damaged)
    except CheckpointError:
        return
    intended = some_file()
    assert read.fingerprint == intended.fingerprint
    assert (read.detector, read.classes, read.origin) == (
        intended.detector,
        intended.classes,
        intended.origin,
    )


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.contract
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, ending: str, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / f"model{ending}"
    write_model(path, some_file())
    before = path.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(StorageError, match="could not be written: File too large"):
        write_model(path, some_file({"other": torch.zeros(100)}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
