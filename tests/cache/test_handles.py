import gc
import os
from pathlib import Path

import pytest

from ldkit.cache.handles import Handles
from ldkit.errors import StorageError

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{number}" for number in range(9)]
    for path in paths:
        path.write_text(path.name)
    return paths


@linux
@pytest.mark.contract
def test_a_file_is_opened_once_and_never_too_many_at_a_time(paths) -> None:
    handles, before = Handles(limit=4), open_files()
    for _ in range(3):
        for path in paths:
            assert os.pread(handles.of(path), 9, 0).decode() == path.name
            assert handles.of(path) == handles.of(path)
        assert open_files() - before == 4
    handles.close()
    assert open_files() == before
    assert os.pread(handles.of(paths[0]), 9, 0) == b"0"
    handles.close()


@linux
@pytest.mark.contract
def test_files_close_with_their_owner(paths) -> None:
    before = open_files()
    handles = Handles()
    for path in paths:
        handles.of(path)
    del handles
    gc.collect()
    assert open_files() == before


@pytest.mark.contract
def test_a_file_that_cannot_be_opened_is_told(tmp_path) -> None:
    with pytest.raises(StorageError, match="could not be read: No such file or directory"):
        Handles().of(tmp_path / "absent")
