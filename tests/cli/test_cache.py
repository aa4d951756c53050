"""`ldkit cache`: readable lines for people, raw numbers for machines; caches out of caches."""

import json
import re
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
    assert shown["groups"]["main"]["rows"] == found.rows
    assert shown["rows_per_view"]["percentiles"]["main"]["p0"] >= 0
    assert sum(each["views"] for each in shown["rows_per_view"]["main_histogram"]) == 14
    assert shown["coverage"] == {"main": {"topk": 9}}
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
    assert (
        lines[1] == f"state          sealed, 1 shard, fingerprint {(found.fingerprint or '')[:12]}"
    )
    first = next(n for n, line in enumerate(lines) if line.startswith("columns "))
    table = [
        line[len("columns        ") :] for line in lines[first : first + len(found.column_bytes)]
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
    assert "state          not sealed: 1 of 1 shard\n" in said.out
    shown = json.loads(ldkit("cache", "info", "caches/tiny", "--json").out)
    assert shown["state"]["sealed"] is False
    assert shown["state"]["fingerprint"] is None


@pytest.mark.story
@pytest.mark.usefixtures("home")
def test_a_cache_is_extended_and_pruned(ldkit: Shell) -> None:
    before = {path: path.read_bytes() for path in Path("caches").rglob("*") if path.is_file()}
    grow = ("cache-logits", "student.yaml", "--set", "cache.vlr={}", "--device", "cpu")
    refused = ldkit(*grow)
    assert refused.code == 4
    assert "add what is missing to it (`ldkit cache-logits RECIPE --extend`)" in refused.err
    ahead = json.loads(ldkit(*grow, "--extend", "--dry-run", "--json").out)
    assert [(each["regions"], each["views"]) for each in ahead["to_add"]] == [(["vlr"], 14)]
    said = ldkit(*grow, "--extend")
    assert said.code == 0
    assert "Adding vlr with 14 views in caches/tiny/generations/001." in said.err
    assert re.search(r"^generations +001  14 views, [\d.]+ KB: main, vlr$", said.out, re.MULTILINE)
    assert {path: path.read_bytes() for path in before} == before
    said = ldkit("cache", "prune", "caches/tiny", "--keep", "main.bbox_logits", "--out", "few")
    assert said.code == 0
    assert re.search(
        r"^size +[\d.]+ KB, \d\d% less than the [\d.]+ KB of caches/tiny$", said.out, re.MULTILINE
    )
    assert json.loads(ldkit("cache", "info", "few", "--json").out)["coverage"] == {
        "main": {"topk": 9}
    }
    refused = ldkit("cache", "prune", "few", "--keep", "main", "--out", "few")
    assert refused.code == 2
    assert "few: is the cache itself, which is never changed." in refused.err


@pytest.mark.story
@pytest.mark.usefixtures("home")
def test_caches_of_other_images_are_merged(ldkit: Shell) -> None:
    whole = json.loads(Path("data/annotations/instances_train.json").read_text())
    for name, ids in [("one", range(1, 4)), ("two", range(4, 8))]:
        part = {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in ids],
            "annotations": [row for row in whole["annotations"] if row["image_id"] in ids],
        }
        Path(f"data/annotations/{name}.json").write_text(json.dumps(part))
        annotations = f"data.train.annotations=annotations/{name}.json"
        ldkit("cache-logits", "student.yaml", "--out", name, "--set", annotations)
    said = ldkit("cache", "merge", "one", "two", "--out", "both")
    assert said.code == 0
    extended = ldkit("cache-logits", "student.yaml", "--out", "both", "--extend")
    assert "Adding the data set with 1 view in both/generations/002." in extended.err
    distill = ("distill", "student.yaml", "--cache", "both", "--device", "cpu")
    assert ldkit(*distill, "--set", "schedule.max_steps=1").code == 0


@pytest.mark.contract
@pytest.mark.usefixtures("home")
def test_an_estimate_is_told_without_a_build(ldkit: Shell) -> None:
    words = ("cache", "estimate", "student.yaml", "--set", "cache.path=new", "--device", "cpu")
    said = ldkit(*words)
    assert said.code == 0
    assert re.search(r"^size by codec +fp32 +fp16 +u8 +as in the recipe$", said.out, re.MULTILINE)
    assert re.search(r"^break even +after 2 epochs; a run of 2 saves ", said.out, re.MULTILINE)
    assert json.loads(ldkit(*words, "--json").out)["break_even"]["epochs"] == 2
    assert not Path("new").exists()


@pytest.mark.contract
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words",
    [
        ("push", "file:///x/cache", "file:///y"),
        ("prune", "file:///x/cache", "--keep", "main", "--out", "new"),
        ("merge", "caches/tiny", "file:///x/cache", "--out", "new"),
    ],
)
def test_a_url_is_no_folder_of_a_cache(ldkit: Shell, words: tuple[str, ...]) -> None:
    said = ldkit("cache", *words)
    assert said.code == 2
    assert "file:///x/cache: is a URL, where a folder is wanted." in said.err
    assert "ldkit cache pull file:///x/cache FOLDER" in said.err
    assert not Path("new").exists()
