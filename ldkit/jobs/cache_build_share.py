"""Which shards a process builds, where several build one cache.

Nothing is agreed on and nobody is asked: the number of a shard says whose it is. So it does not
matter who starts when, on which machine, or how many there were last time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ldkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Share:
    """Of the shards `first` … `end` - 1, those whose number leaves `rank`, divided by `world`."""

    rank: int = 0
    world: int = 1
    first: int = 0
    end: int | None = None

    def of(self, missing: Sequence[int]) -> list[int]:
        """Return the shards that are this process's to build."""
        return [
            number
            for number in missing
            if number % self.world == self.rank
            and number >= self.first
            and (self.end is None or number < self.end)
        ]


WHOLE = Share()


def share_of(environment: Mapping[str, str], shards: str | None = None) -> Share:
    """Return the share of a process that torchrun, or a user, has given RANK and WORLD_SIZE.

    `shards` is a range of shards, as in `0:100`; None: all.

    Raises:
        UsageError: One of them is not what it should be.
    """
    rank, world = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={world}: this is no process of so many.",
            where="environment",
            hint="`torchrun` sets both: a rank from 0, and the number of processes. Unset them to "
            "build with one process.",
        )
    if shards is None:
        return Share(int(rank), int(world))
    first, _, end = shards.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise UsageError(
            f"{shards!r} is no range of shards.",
            where="--shards",
            hint="Take FIRST:END, as in 0:100 for the shards 0 to 99. `--dry-run` says how many "
            "there are.",
        )
    return Share(int(rank), int(world), int(first), int(end))


def own_device(name: str, environment: Mapping[str, str]) -> str:
    """Return the device of a process: each process of a machine takes a GPU of its own.

    A device that is named with its number is taken as it is.
    """
    local = environment.get("LOCAL_RANK", "")
    if name not in ("auto", "cuda") or not local.isdecimal() or not torch.cuda.is_available():
        return name
    return f"cuda:{int(local) % torch.cuda.device_count()}"
