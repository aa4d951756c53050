"""A file has its final name only once it is on disk, and a receipt only once its shard is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldkit.errors import StorageError
from ldkit.files import FOREIGN_SECONDS, abandoned, replacing, write_bytes
from tests.system_calls import HOST, system_calls


@pytest.mark.law
def test_a_file_is_synced_renamed_and_its_folder_synced(tmp_path: Path) -> None:
    with system_calls(tmp_path) as calls:
        write_bytes(tmp_path / "a", b"content")
    assert calls == ["sync .a~", "rename .a~ a", "sync ."]


@pytest.mark.law
def test_a_new_folder_is_made_known_to_its_own_folder_first(tmp_path: Path) -> None:
    with system_calls(tmp_path) as calls:
        write_bytes(tmp_path / "new" / "deep" / "a", b"content")
    assert calls == [
        "make new",
        "sync .",
        "make new/deep",
        "sync new",
        "sync new/deep/.a~",
        "rename new/deep/.a~ new/deep/a",
        "sync new/deep",
    ]


@pytest.mark.law
def test_a_file_that_cannot_be_synced_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"before")

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        write_bytes(tmp_path / "a", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


@pytest.mark.law
def test_what_a_killed_process_of_the_same_number_has_linked_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    os.link(tmp_path / "other", tmp_path / f".a.{HOST}.{os.getpid()}.tmp")
    write_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.contract
def test_a_temporary_file_is_named_by_its_writer(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        assert temporary == tmp_path / f".a.json.{HOST}.{os.getpid()}.tmp"
        temporary.write_bytes(b"half")
        assert not list(abandoned(tmp_path))
    assert (tmp_path / "a.json").read_bytes() == b"half"


@pytest.mark.contract
def test_only_files_of_dead_writers_are_abandoned(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = tmp_path / f".000001.safetensors.{HOST}.{dead.pid}.tmp"
    living = tmp_path / f".000001.safetensors.{HOST}.{os.getppid()}.tmp"
    foreign = tmp_path / ".000001.safetensors.elsewhere.1.tmp"
    old = tmp_path / ".000002.safetensors.elsewhere.1.tmp"
    for path in (gone, living, foreign, old, tmp_path / "000001.safetensors"):
        path.write_bytes(b"half")
    long_ago = time.time() - FOREIGN_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    assert set(abandoned(tmp_path)) == {gone, old}


@pytest.mark.law
@pytest.mark.parametrize("has_links", [True, False])
def test_of_several_writers_that_keep_the_first_one_counts(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", none)
    write_bytes(tmp_path / "file", b"first", keep=True)
    assert (tmp_path / "file").read_bytes() == b"first"
    if has_links:
        write_bytes(tmp_path / "file", b"second", keep=True)
        assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
