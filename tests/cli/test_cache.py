"""`ldkit cache info`: readable lines for people, raw numbers for machines."""

import json
from pathlib import Path

import pytest

from ldkit.cache.info import info
from tests.cli.conftest import Shell


@pytest.mark.contract
def test_info_gives_machines_every_number_as_a_number(home: Path, ldkit: Shell) -> None:
    found = info(home / "caches" / "tiny")
    shown = json.loads(ldkit("cache", "info", "caches/tiny", "--json").out)
    assert shown["state"] == {
        "sealed": True,
        "shards": 1,
        "planned_shards": 1,
        "fingerprint": found.fingerprint,
    }
    assert shown["views"] == {"count": 14, "of": 14}
    assert shown["rows"]["main"] == found.rows
    assert shown["size"] == {"bytes": found.bytes, "dense_bytes": found.dense_bytes}
    assert shown["columns"] == found.column_bytes
    assert shown["axes"]["strides"] == [8, 16, 32, 64]
    assert shown["teacher"]["fingerprint"] == found.plan.sources.weights.fingerprint
    assert shown["data"]["facts"]["images"] == 7
    assert shown["view_policy"]["facts"]["short_side_px"] == 64


@pytest.mark.contract
def test_info_shows_people_one_column_a_line_the_largest_first(home: Path, ldkit: Shell) -> None:
    found = info(home / "caches" / "tiny")
    lines = ldkit("cache", "info", "caches/tiny").out.splitlines()
    assert lines[1] == f"state        sealed, 1 shard, fingerprint {(found.fingerprint or '')[:12]}"
    first = next(n for n, line in enumerate(lines) if line.startswith("columns "))
    table = [
        line[len("columns      ") :] for line in lines[first : first + len(found.column_bytes)]
    ]
    assert [line.split()[0] for line in table] == sorted(
        found.column_bytes, key=lambda name: -found.column_bytes[name]
    )
    assert len({len(line) for line in table}) == 1


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_info_tells_how_far_an_unfinished_cache_is(ldkit: Shell) -> None:
    Path("caches/tiny/manifest.json").unlink()
    said = ldkit("cache", "info", "caches/tiny")
    assert said.code == 0
    assert "state        not sealed: 1 of 1 shard\n" in said.out
    shown = json.loads(ldkit("cache", "info", "caches/tiny", "--json").out)
    assert shown["state"]["sealed"] is False
    assert shown["state"]["fingerprint"] is None
