"""Every error a user can meet, and the exit code of each.

    LdkitError                     .message  .hint  .where        exit code
    ├── UsageError                 a command asked for the impossible     2
    ├── RecipeError                bad document, override, cross-field rule 2
    ├── DataError                  missing image, broken annotation       3
    ├── CacheError                                                        4
    │   ├── CacheIncomplete        no manifest: 212 of 459 shards
    │   ├── CacheCorrupt           checksum, size or column differs
    │   ├── CacheMismatch          made for another teacher, data or view policy
    │   └── CacheCoverage          the recipe reads rows that the cache lacks
    ├── CheckpointError            wrong shape, missing keys, foreign file 5
    ├── TrainingError              non-finite losses, a silent term       6
    └── StorageError               disk full, folder not writable         7

A mistake of the user raises one of these and is shown without a traceback. A mistake of the
programmer is a `ValueError` or `TypeError` with one. Each message says where, what was found,
what was expected and what to do.
"""

from typing import ClassVar


class LdkitError(Exception):
    """Carry a message for the user: what happened, where, and what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n{self.hint}" if self.hint else head

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way from a worker process to its parent with all three texts."""
        return _rebuild, (type(self), self.message, self.where, self.hint)


def _rebuild(kind: type[LdkitError], message: str, where: str, hint: str) -> LdkitError:
    return kind(message, where=where, hint=hint)


class UsageError(LdkitError):
    """Say that a command was asked for something that cannot be, before anything started."""

    exit_code = 2


class RecipeError(LdkitError):
    """Say what is wrong with a recipe: all problems at once, with lines and suggestions."""

    exit_code = 2


class DataError(LdkitError):
    """Say which image or annotation is missing, broken or contradictory."""

    exit_code = 3


class CacheError(LdkitError):
    """Say what is wrong with a teacher cache."""

    exit_code = 4


class CacheIncomplete(CacheError):
    """Say that a cache is not sealed yet, and how many of its shards exist."""


class CacheCorrupt(CacheError):
    """Say that bytes, sizes or columns of a cache are not what its receipts promise."""


class CacheMismatch(CacheError):
    """Say that a cache was made for another teacher, data set or view policy, field by field."""


class CacheCoverage(CacheError):
    """Say which rows or columns a recipe reads that a cache lacks or holds otherwise."""


class CheckpointError(LdkitError):
    """Say that a model file is foreign, truncated, or does not fit."""

    exit_code = 5


class TrainingError(LdkitError):
    """Say that training stopped because going on would have been worthless."""

    exit_code = 6


class StorageError(LdkitError):
    """Say that something could not be written, and that nothing half-written was left."""

    exit_code = 7
