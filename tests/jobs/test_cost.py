import time
from mmap import mmap

import numpy as np
import pytest

from ldkit.jobs import cost
from ldkit.jobs.cost import machine, measured, resident_bytes
from tests.cache.test_handles import linux


@pytest.mark.contract
def test_a_call_is_timed_by_the_clock_and_by_the_processor() -> None:
    found = measured(lambda: time.sleep(0.05))
    assert 0.05 <= found.wall_s < 5
    assert found.cpu_s < 0.05


@linux
@pytest.mark.contract
def test_memory_that_is_touched_first_faults_and_counts() -> None:
    memory = mmap(-1, 1 << 24)  # from the system: an array may get pages that were freed before
    before = resident_bytes()
    found = measured(lambda: np.frombuffer(memory, np.uint8).fill(1))
    after = resident_bytes()
    # 16 MiB are 4,096 pages of 4 KiB, or 8 of 2 MiB.
    assert found.faults >= 8
    assert before is not None
    assert after is not None
    assert after - before > 12e6
    assert found.read_bytes is not None


@pytest.mark.contract
def test_what_the_system_does_not_count_is_none(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cost, "PROCESS", tmp_path)
    assert resident_bytes() is None
    assert measured(lambda: None).read_bytes is None


@pytest.mark.contract
def test_the_machine_is_told_with_its_load() -> None:
    found = machine()
    assert isinstance(found.value, dict)
    assert set(found.value) == {"processor", "cores", "load"}
    assert found.text.endswith(f"load {found.value['load']:.1f}")
