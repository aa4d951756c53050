"""In which order shards are built: the one with the largest batch first, then as they are numbered.

A batch of the largest canvas takes the most memory, so where memory is too small it runs out at
once. The order changes no byte: a shard is written from its keys.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from ldkit.cache.folder import CacheFolder, is_complete
from ldkit.cache.format import Plan
from ldkit.jobs.canvases import canvas_batches, pixels_of
from ldkit.jobs.train import Material
from ldkit.structures import ViewKey

Batches = list[list[ViewKey]]


class Coming:
    """The batches of shards; what another process has built when its turn comes is left out.

    `begun` has the shard of each batch that was handed out, for whoever takes the batch: a loader
    may be some batches ahead.
    """

    def __init__(self, folder: CacheFolder, plan: Plan, batches: Mapping[int, Batches]) -> None:
        self._folder = folder
        self._plan = plan
        self._batches = batches
        self.begun: deque[int] = deque()
        self.left_out = 0
        self.total = sum(len(plan.views_of(shard)) for shard in batches)

    @classmethod
    def of(
        cls,
        folder: CacheFolder,
        plan: Plan,
        keys: Sequence[ViewKey],
        shards: Sequence[int],
        material: Material,
    ) -> "Coming":
        """Return the batches of some shards, `keys` being all keys of the plan."""
        batches, largest = {}, {}
        for shard in shards:
            batches[shard] = _largest_first(plan.keys_of(shard, keys), plan, material)
            largest[shard] = pixels_of(material.records, material.draw, batches[shard][0])
        first = max(shards, key=lambda shard: largest[shard])
        in_order = sorted(shards, key=lambda shard: (shard != first, shard))
        return cls(folder, plan, {shard: batches[shard] for shard in in_order})

    def __iter__(self) -> Iterator[list[ViewKey]]:
        """Yield the batches of one shard after the other."""
        for shard, batches in self._batches.items():
            if is_complete(self._folder, self._plan, shard):
                self.left_out += len(self._plan.views_of(shard))
                continue
            for batch in batches:
                self.begun.append(shard)
                yield batch


def _largest_first(keys: Sequence[ViewKey], plan: Plan, material: Material) -> Batches:
    """Return keys in batches of equal canvas; batches of the same size keep their order."""
    records, draw = material.records, material.draw
    batches = canvas_batches(records, draw, keys, plan.build.batch_size)
    return sorted(batches, key=lambda batch: -pixels_of(records, draw, batch))
