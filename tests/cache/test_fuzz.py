"""Caches with random damage: the right rows or an error for the user, never a crash or a hang."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldkit.cache.folder import CacheFolder
from ldkit.cache.reader import CacheReader
from ldkit.errors import CacheError, CacheMismatch, StorageError
from ldkit.structures import TeacherRows
from tests.cache import forgery
from tests.cache.conftest import KEYS
from tests.cache.limits import little_memory, soon
from tests.cache.synthetic import make_batch
from tests.cache.test_verify import verify

BATCH = make_batch(KEYS)
SHARD = 1
EXTREMES = (0, 1, -1, 2**16, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63))
NUMBERS = (b"-1", b"0", b"4611686018427387904", b"1e999", b"null", b'"x"', b"[[]]", b"0.5", b"true")
REGIONS = ("length", "header", "views", "offsets", "rows", "anywhere")
DOCUMENTS = ("plan.json", "manifest.json", "shards/000001.json")


def read(path: Path) -> list[Tensor]:
    """Return all that a cache says of the batch."""
    return list(flat(CacheReader.open_(path).lookup(BATCH)))


def flat(rows: TeacherRows) -> Iterator[Tensor]:
    for part in rows:
        if isinstance(part, Tensor):
            yield part
        elif part is not None:
            yield from flat(part)


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def place_in(region: str, content: bytes, dice: random.Random) -> int:
    """Return a place in a region of a shard."""
    first = forgery.tensors_from(content)
    match region:
        case "length":
            return dice.randrange(8)
        case "header":
            return dice.randrange(8, first)
        case "anywhere":
            return dice.randrange(len(content))
    spans = [
        entry["data_offsets"]
        for name, entry in forgery.header_of(content).items()
        if name != "__metadata__" and kind_of(name) == region
    ]
    start, stop = dice.choice([span for span in spans if span[1] > span[0]])
    return first + dice.randrange(start, stop)


def kind_of(column: str) -> str:
    if column.startswith("view."):
        return "views"
    return "offsets" if column.endswith(".offsets") else "rows"


def mutated(content: bytes, place: int, dice: random.Random) -> bytes:
    """Return the content with one change at a place: a bit, a byte, a number, a part."""
    length = dice.choice((1, 2, 8, 40))
    before, cut, after = content[:place], content[place : place + length], content[place + length :]
    match dice.randrange(7):
        case 0:
            return before + bytes([cut[0] ^ 1 << dice.randrange(8)]) + cut[1:] + after
        case 1:
            return before + dice.randbytes(len(cut)) + after
        case 2:
            number = dice.choice(EXTREMES).to_bytes(8, "little", signed=True)
            aligned = place - place % 8
            return content[:aligned] + number + content[aligned + 8 :]
        case 3:
            return before + after
        case 4:
            return before + cut + cut + after
        case 5:
            return before + dice.choice(NUMBERS) + after
        case _:
            return before


def text_mutated(text: bytes, dice: random.Random) -> bytes:
    """Return JSON with one change, often still JSON: another number, a field more or less."""
    numbers = [n for n, byte in enumerate(text) if text[n - 1 : n] in (b":", b"[", b",")]
    if dice.random() < 0.6 and numbers:
        place = dice.choice(numbers)
        end = place
        while end < len(text) and text[end : end + 1] not in (b",", b"]", b"}"):
            end += 1
        return text[:place] + dice.choice(NUMBERS) + text[end:]
    return mutated(text, dice.randrange(len(text)), dice)


def failure_of(use: Callable[[Path], object], cache: Path) -> CacheError | StorageError | None:
    """Return how a use of a cache ends, if it ends in an error for the user."""
    try:
        use(cache)
    except (CacheError, StorageError) as error:
        return error
    return None


def outcome(cache: Path, truth: list[Tensor] | None) -> str:
    """Verify and read a cache; what it says must be right, unless `truth` is None: forged."""
    with soon(10), little_memory():
        unproved, unread = failure_of(verify, cache), failure_of(read, cache)
        if unread is not None:
            # What is proved can still be of other images or boxes than those of the batch.
            assert unproved is not None or isinstance(unread, CacheMismatch), unread
            return "refused"
        assert truth is None or equal(read(cache), truth), "wrong rows"
    return "read"


@pytest.mark.law
@pytest.mark.parametrize("region", REGIONS)
def test_a_damaged_shard_gives_the_right_rows_or_an_error(region: str, cache: Path) -> None:
    dice, truth, path = random.Random(region), read(cache), CacheFolder(cache).shard(SHARD)
    whole = path.read_bytes()
    for _ in range(60):
        content = mutated(whole, place_in(region, whole, dice), dice)
        path.write_bytes(content)
        expected = "read" if content == whole else "refused"
        assert outcome(cache, truth) == expected


@pytest.mark.law
@pytest.mark.parametrize("region", REGIONS)
def test_a_forged_shard_gives_rows_or_an_error(region: str, cache: Path) -> None:
    """The rows are the forger's, whom no digest can tell from the builder."""
    dice, folder = random.Random(region), CacheFolder(cache)
    whole, manifest = folder.shard(SHARD).read_bytes(), folder.manifest.read_bytes()
    seen: Counter[str] = Counter()
    for _ in range(120):
        folder.manifest.write_bytes(manifest)
        if region == "header" and dice.random() < 0.7:
            header = text_mutated(whole[8 : forgery.tensors_from(whole)], dice)
            content = forgery.with_header(whole, header)
        else:
            content = mutated(whole, place_in(region, whole, dice), dice)
        forge_size(cache, content)
        seen[outcome(cache, None)] += 1
    assert seen["refused"] > 10
    assert region not in ("rows", "anywhere") or seen["read"] > 10


def forge_size(cache: Path, content: bytes) -> None:
    """Vouch for a shard of the forger; the manifest is that of the whole cache."""
    forgery.forge_content(cache, SHARD, content or b"\0")


@pytest.mark.law
@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("is_signed", [False, True])
def test_a_damaged_or_forged_document_gives_the_right_rows_or_an_error(
    name: str, is_signed: bool, cache: Path
) -> None:
    dice, truth = random.Random(f"{name} {is_signed}"), read(cache)
    whole = {path: (cache / path).read_bytes() for path in (*DOCUMENTS, "shards/000000.json")}
    seen: Counter[str] = Counter()
    for _ in range(150):
        for path, content in whole.items():
            (cache / path).write_bytes(content)
        if is_signed:
            text = text_mutated(whole[name].split(b"\n", 1)[1][:-1], dice)
            forge_text(cache, name, text)
        else:
            place = dice.randrange(len(whole[name]))
            (cache / name).write_bytes(mutated(whole[name], place, dice))
        seen[outcome(cache, truth if name != "plan.json" else None)] += 1
    assert seen["refused"] > 50


def forge_text(cache: Path, name: str, text: bytes) -> None:
    """Sign a document's new text, and all documents that name it."""
    (cache / name).write_bytes(forgery.signed_text(text.decode("utf-8", "surrogateescape")))
    if name == "plan.json":
        digest = forgery.digest_in((cache / name).read_bytes())

        def rename(manifest: forgery.Fields) -> None:
            manifest["plan"] = digest
            for receipt in manifest["receipts"]:
                receipt["plan"] = digest

        forgery.forge_manifest(cache, rename)
    elif name == "manifest.json":
        try:
            forgery.forge_manifest(cache, lambda _: None)
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # no JSON, or no receipts


def test_json_of_the_tests_is_that_of_the_cache(cache: Path) -> None:
    for name in DOCUMENTS:
        content = (cache / name).read_bytes()
        assert forgery.signed(forgery.fields_of(cache / name)) == content
        assert json.loads(content)["digest"] == forgery.digest_in(content)
