"""`ldkit bench cache`: figures of a cache that lies there."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shell


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_bench_tells_people_and_machines_how_fast_a_cache_is_read(ldkit: Shell) -> None:
    said = ldkit("bench", "cache", "caches/tiny", "--rounds", "1", "--batch", "2")
    assert said.code == 0
    names = [line.split("  ")[0] for line in said.out.splitlines()]
    assert names[:5] == ["cache", "machine", "sample", "opening", "first use"]
    shown = json.loads(ldkit("bench", "cache", "caches/tiny", "--rounds", "1", "--json").out)
    assert shown["sample"]["views"] == 14
    assert shown["main_lookup"]["views_per_s"] > 0


@pytest.mark.contract
def test_bench_reads_a_cache_at_a_url(
    home: Path, ldkit: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "store"))
    url = f"file://{home.resolve() / 'caches' / 'tiny'}"
    said = ldkit("bench", "cache", url, "--rounds", "1", "--json")
    assert json.loads(said.out)["cache"] == url


@pytest.mark.contract
def test_bench_of_no_cache_ends_with_the_way_out(ldkit: Shell, tmp_path: Path) -> None:
    said = ldkit("bench", "cache", str(tmp_path / "none"))
    assert said.code == 4
    assert "Build one with `ldkit cache-logits`" in said.err
