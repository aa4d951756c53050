"""Files that torch saved, in both layouts: tensors come through, lies are told, nothing runs."""

import io
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ldkit.errors import CheckpointError
from ldkit.models.foreign_file import ForeignFile, is_tensor, read_foreign_file
from tests.models.evil import bombs, watched

LAYOUTS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def save(content: object, path: Path, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def read(path: Path) -> ForeignFile:
    return read_foreign_file(path, "a checkpoint", "Take another.")


def refused(path: Path, action: Callable[[Path], object] = read) -> str:
    with pytest.raises(CheckpointError) as caught:
        action(path)
    assert caught.value.where == str(path)
    return str(caught.value)


def all_tensors(path: Path) -> dict[str, Tensor]:
    file = read(path)
    return file.tensors(file.content)


@pytest.mark.contract
@LAYOUTS
def test_tensors_of_every_type_and_layout_come_through(is_zip: bool, tmp_path: Path) -> None:
    grid = torch.arange(24.0).reshape(4, 6)
    written = {str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES}
    written |= {"part": grid[1:, ::2], "turned": grid.t(), "one": torch.tensor(3.5)}
    written |= {"same": grid, "learned": nn.Parameter(grid[2]), "none": torch.empty(0)}
    found = all_tensors(save(written, tmp_path / "x.pth", is_zip=is_zip))
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
        assert found[name].is_contiguous()


@pytest.mark.law
@settings(deadline=None, max_examples=25)
@given(data=st.data(), is_zip=st.booleans())
def test_any_view_of_a_storage_comes_through(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, is_zip: bool
) -> None:
    tensor = torch.arange(60).reshape(3, 4, 5).permute(*data.draw(st.permutations(range(3))))
    for axis in range(3):
        start = data.draw(st.integers(0, tensor.shape[axis] - 1))
        step = data.draw(st.integers(1, 3))
        tensor = tensor[(*[slice(None)] * axis, slice(start, None, step))]
    path = tmp_path_factory.getbasetemp() / "views.pth"
    assert torch.equal(all_tensors(save({"a": tensor}, path, is_zip=is_zip))["a"], tensor)


@pytest.mark.contract
@LAYOUTS
def test_only_the_tensors_that_are_asked_for_are_made(is_zip: bool, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    written = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    file = read(save(written, tmp_path / "x.pth", is_zip=is_zip))
    assert file.content["epoch"] == 3
    assert is_tensor(file.content["optimizer"]["state"][0]["momentum_buffer"])
    assert list(file.tensors(file.content["state_dict"])) == ["weight", "bias"]
    assert len(file.sha256()) == 64


@pytest.mark.contract
@LAYOUTS
@pytest.mark.parametrize("name", list(bombs(Path("x"))))
def test_nothing_in_a_file_runs(is_zip: bool, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = {"state_dict": {"w": torch.ones(2)}, "meta": bombs(marker)[name]}
    path = save(content, tmp_path / "x.pth", is_zip=is_zip)
    with watched() as events:
        file = read(path)
        found = file.tensors(file.content["state_dict"])
    assert events == []
    assert not marker.exists()
    assert torch.equal(found["w"], torch.ones(2))


@pytest.mark.contract
@LAYOUTS
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_told(is_zip: bool, share: float, tmp_path: Path) -> None:
    path = save({"w": torch.ones(3000)}, tmp_path / "x.pth", is_zip=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    text = refused(path)
    assert "is truncated or damaged: a file of torch, but not a whole one" in text
    assert "Copy or download it again." in text


@pytest.mark.law
@settings(deadline=None, max_examples=120)
@given(data=st.data(), is_zip=st.booleans())
def test_damage_is_told_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, is_zip: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    content = bytearray(save({"w": torch.ones(3, 4)[1:], "n": 7}, path, is_zip=is_zip).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(CheckpointError):
        file = read(path)
        if isinstance(file.content, dict):
            file.tensors({"w": file.content.get("w")})


@pytest.mark.contract
def test_a_tensor_of_an_unknown_type_in_an_older_file_is_told(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "x.pth", is_zip=False)
    said = "a tensor in it is of a type that is unknown here (torch.ComplexFloatStorage)."
    assert said in refused(path)


@pytest.mark.contract
def test_a_flipped_bit_in_a_zip_is_told(tmp_path: Path) -> None:
    path = save({"w": torch.ones(3000)}, tmp_path / "x.pth")
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(3).numpy().tobytes()) + 500] ^= 1
    path.write_bytes(content)
    text = refused(path, all_tensors)
    assert "is damaged: w has values that do not fit their checksum." in text


@pytest.mark.contract
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"hello world, this is text", "no file of torch begins with b'hello world,'"),
        ("a.pth", b"<!DOCTYPE html><html>", "no file of torch begins with b'<!DOCTYPE ht'"),
        ("a.pkl", pickle.dumps({"model": np.zeros(3)}), "no file of torch begins with b'\\x80"),
        ("a.bin", bytes(100), "no file of torch begins with b'\\x00"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    text = refused(path)
    assert "is not a checkpoint: " in text
    assert said in text
    assert text.endswith("Take another.")


@pytest.mark.contract
def test_what_is_no_file_at_all_is_told(tmp_path: Path) -> None:
    assert "is a folder, but a checkpoint is expected." in refused(tmp_path)
    assert "does not exist." in refused(tmp_path / "absent.pth")
    (tmp_path / "empty.pth").touch()
    assert "is empty" in refused(tmp_path / "empty.pth")


def rewritten(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> Path:
    """Write the entries of a zip anew, each as `change` does it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            change(archive, name, content)
    return path


@pytest.mark.contract
def test_zips_of_other_programs_are_refused(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(4)}, tmp_path / "x.pth")

    def compressed(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, content, zipfile.ZIP_DEFLATED)

    assert "it is a zip that torch did not write" in refused(rewritten(path, compressed))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "it is a zip without the parts that torch writes" in refused(path)


@pytest.mark.contract
def test_another_order_of_bytes_is_refused(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(4)}, tmp_path / "x.pth")

    def turned(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, b"big" if name.endswith("byteorder") else content)

    assert "another order of bytes" in refused(rewritten(path, turned))


class Storage:
    """Stands for a storage in a pickle that is written by hand."""

    def __init__(self, kind: object, key: object, numel: object) -> None:
        self.parts = ("storage", kind, key, "cpu", numel)


class View:
    """Stands for a tensor with sizes that torch would not write."""

    def __init__(self, storage: object, offset: object, shape: object, strides: object) -> None:
        self.args = (storage, offset, shape, strides, False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


class Writer(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.parts if isinstance(value, Storage) else None


def forged(path: Path, value: object, values: bytes = bytes(16)) -> Path:
    stream = io.BytesIO()
    Writer(stream, 2).dump({"w": value})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", stream.getvalue())
        archive.writestr("x/data/0", values)
    return path


FOUR = Storage(torch.FloatStorage, "0", 4)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (View(FOUR, 0, (5,), (1,)), "w reaches beyond its storage of 4 values"),
        (View(FOUR, 1, (4,), (1,)), "w reaches beyond its storage of 4 values"),
        (View(FOUR, -1, (4,), (1,)), "w reaches beyond its storage"),
        (View(FOUR, 0, (2, 2), (-1, 1)), "w reaches beyond its storage"),
        (View(FOUR, 0, (2**40,), (0,)), "w reaches beyond its storage"),
        (View(FOUR, 0, (1,), (2**70,)), "w reaches beyond its storage"),
        (View(FOUR, 0, (4,), (1, 1)), "w reaches beyond its storage"),
        (View(FOUR, 0, 4, (1,)), "w reaches beyond its storage"),
        (View(FOUR, 0, (True, 4), (4, 1)), "w reaches beyond its storage"),
        (View(Storage(torch.FloatStorage, "0", 2**50), 0, (4,), (1,)), "w should have 11258999068"),
        (View(Storage(torch.FloatStorage, "0", 3), 0, (3,), (1,)), "w should have 3 values, but"),
        (View(Storage(torch.FloatStorage, "1", 4), 0, (4,), (1,)), "w has no values in the file"),
        (View(Storage(torch.FloatStorage, "0", -4), 0, (4,), (1,)), "is of a type that is unknown"),
        (View(Storage(torch.QInt8Storage, "0", 16), 0, (4,), (1,)), "unknown here (torch.QInt8St"),
        (View(Storage("text", "0", 4), 0, (4,), (1,)), "w has no storage"),
        (View(None, 0, (4,), (1,)), "w has no storage"),
        (7, "w is no tensor"),
        ([1.0], "w is no tensor"),
    ],
)
def test_sizes_that_lie_are_told_before_memory_is_taken(
    value: object, said: str, tmp_path: Path
) -> None:
    text = refused(forged(tmp_path / "x.pth", value), all_tensors)
    assert "is damaged: " in text
    assert said in text


@pytest.mark.contract
def test_a_view_that_fits_is_taken_from_a_forged_file(tmp_path: Path) -> None:
    path = forged(tmp_path / "x.pth", View(FOUR, 1, (3,), (1,)))
    assert torch.equal(all_tensors(path)["w"], torch.zeros(3))


@pytest.mark.contract
def test_lengths_that_lie_in_the_older_layout_are_told(tmp_path: Path) -> None:
    path = save({"w": torch.ones(300)}, tmp_path / "x.pth", is_zip=False)
    content = path.read_bytes()
    place = content.find((300).to_bytes(8, "little") + torch.ones(1).numpy().tobytes())
    path.write_bytes(content[:place] + (2**60).to_bytes(8, "little") + content[place + 8 :])
    assert "has another length than its tensor says" in refused(path)


@pytest.mark.contract
def test_parts_of_storages_in_very_old_files_come_through(tmp_path: Path) -> None:
    class OldWriter(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, Storage):
                return None
            return ("storage", torch.FloatStorage, "k", "cpu", 6, ("part", 2, 4))

    path = tmp_path / "x.pth"
    with path.open("wb") as stream:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(value, stream, 2)
        OldWriter(stream, 2).dump({"w": View(FOUR, 1, (3,), (1,))})
        pickle.dump(["k"], stream, 2)
        stream.write((6).to_bytes(8, "little") + torch.arange(6.0).numpy().tobytes())
    assert all_tensors(path)["w"].tolist() == [3.0, 4.0, 5.0]
