import os

import pytest

from ldkit.cache.pagecache import evict, refill, resident_share
from tests.cache.test_handles import linux


@linux
@pytest.mark.contract
def test_a_file_that_was_read_is_in_memory_and_one_that_was_evicted_is_not(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom((3 << 20) + 1))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        file.read()
    assert resident_share(path) == 1
    evict(path)
    share = resident_share(path)
    if share == 1:
        pytest.skip("this file system keeps its files in memory")
    assert share == 0
    refill(path)
    assert resident_share(path) == 1


@pytest.mark.contract
def test_an_empty_file_has_no_share(tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    evict(path)
    assert resident_share(path) is None
