"""A file system that fails on demand: the files are those of memory://."""

from collections.abc import Callable, Iterator

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ldkit.cache import remote

Fault = Callable[[str, bytes], bytes]
"""From a path and its content to what comes instead; or it raises."""


class Flaky(MemoryFileSystem):
    """`flaky://NAME`: the next reads go through `faults`, one for each, as long as there are any.

    `read` lists what was asked for and is there.
    """

    protocol = "flaky"
    faults: list[Fault] = []  # noqa: RUF012
    read: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        content = MemoryFileSystem.cat_file(self, path)
        self.read.append(path)
        return self.faults.pop(0)(path, content) if self.faults else content


def lost(_path: str, _content: bytes) -> bytes:
    raise ConnectionResetError("connection lost")


def truncated(_path: str, content: bytes) -> bytes:
    return content[:-100]


def changed(_path: str, content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def intact(_path: str, content: bytes) -> bytes:
    return content


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Flaky]]:
    """The failing file system over an empty memory://, with no pauses between attempts."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(Flaky, "faults", [])
    monkeypatch.setattr(Flaky, "read", [])
    yield Flaky
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
