import os
import resource
from pathlib import Path

import pytest

from ldkit.cache.handles import Handles
from ldkit.errors import StorageError

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def admit_all(_: int) -> None:
    """Ask nothing."""


def open_files(folder: Path) -> int:
    """Return how many files below a folder this process holds open."""
    links = Path("/proc/self/fd").iterdir()
    return len([link for link in links if link.resolve().is_relative_to(folder)])


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{number}" for number in range(9)]
    for path in paths:
        path.write_text(path.name)
    return [str(path) for path in paths]


@linux
@pytest.mark.contract
def test_a_file_is_opened_once_and_never_too_many_at_a_time(paths, tmp_path) -> None:
    handles = Handles(limit=4)
    for _ in range(3):
        for path in paths:
            assert os.pread(handles.of(path, admit_all), 9, 0).decode() == Path(path).name
            assert handles.of(path, admit_all) == handles.of(path, admit_all)
        assert open_files(tmp_path) == 4
    handles.close()
    assert open_files(tmp_path) == 0
    assert os.pread(handles.of(paths[0], admit_all), 9, 0) == b"0"
    handles.close()


@pytest.mark.contract
def test_the_file_that_was_opened_longest_ago_is_closed(paths) -> None:
    handles = Handles(limit=2)
    for path in paths[:3]:
        handles.of(path, admit_all)
        Path(path).unlink()  # what is closed cannot be opened again
    for path in paths[1:3]:
        assert os.pread(handles.of(path, admit_all), 9, 0).decode() == Path(path).name
    with pytest.raises(StorageError, match="No such file"):
        handles.of(paths[0], admit_all)
    handles.close()


@linux
@pytest.mark.contract
def test_files_close_with_their_owner(paths, tmp_path) -> None:
    handles = Handles()
    for path in paths:
        handles.of(path, admit_all)
    assert open_files(tmp_path) == len(paths)
    del handles
    assert open_files(tmp_path) == 0


@pytest.mark.contract
def test_a_file_that_cannot_be_opened_is_told(tmp_path) -> None:
    with pytest.raises(StorageError, match="could not be read: No such file or directory"):
        Handles().of(str(tmp_path / "absent"), admit_all)


@linux
@pytest.mark.contract
@pytest.mark.parametrize(("allowed", "kept"), [(8, 4), (20_000, 9), (resource.RLIM_INFINITY, 9)])
def test_half_of_what_the_system_allows_stays_open(
    allowed, kept, paths, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    handles = Handles()
    for path in paths:
        handles.of(path, admit_all)
    assert open_files(tmp_path) == kept
    handles.close()
