"""Records and views → samples → batches.

    ViewDataset[key] → Sample        read, draw, render: one image, in a worker
    collate(samples) → Batch         padded to the largest canvas, still uint8
    load_batches(...) → Batches      the same through worker processes, errors told plainly

Axes: B images · G boxes · 4 = x1, y1, x2, y2 · H, W pixels.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch.utils.data import DataLoader, Dataset

from ldkit.data.augment import read_image, render, render_boxes
from ldkit.data.coco import Record
from ldkit.errors import DataError, LdkitError
from ldkit.interrupts import interrupts_held
from ldkit.structures import Batch, GroundTruth, Size, View, ViewKey

DrawView = Callable[[ViewKey, Size], View]
"""Where views come from: a policy that draws them, or a cache that stores them."""


class Sample(NamedTuple):
    """One rendered view: RGB pixels on its own canvas, and its boxes in pixels of the view."""

    key: ViewKey
    view: View
    pixels: UInt8[np.ndarray, "3 H W"]
    boxes: Float32[np.ndarray, "G 4"]
    labels: Int64[np.ndarray, "G"]


class ViewDataset(Dataset[Sample]):
    """Images by `ViewKey`. Holds no files and no randomness, so it may travel to any process.

    `draw` must be picklable where workers are spawned: a method of a `ViewPolicy` is.
    """

    def __init__(self, records: Mapping[int, Record], draw: DrawView) -> None:
        self.records = records
        self.draw = draw

    def __getitem__(self, key: ViewKey) -> Sample:
        """Return the rendered view of this key.

        Raises:
            DataError: The image cannot be read, or is not of the size its annotations state.
            KeyError: No record has this image id.
        """
        record = self.records[key.image_id]
        view = self.draw(key, record.hw)
        pixels = render(read_record(record), view)
        return Sample(key, view, pixels, render_boxes(record.boxes, view), record.labels)


def read_record(record: Record) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image of a record as RGB.

    Raises:
        DataError: It cannot be read, or its size is not the one in the annotation file.
    """
    image = read_image(record.path)
    (height, width), (stated_height, stated_width) = image.shape[:2], record.hw
    if (height, width) == record.hw:
        return image
    turned = " The sides are swapped: the boxes may refer to a turned copy of the image."
    raise DataError(
        f"the image is {width} x {height} (width x height), but its annotation file states "
        f"{stated_width} x {stated_height} for image {record.image_id}.",
        where=str(record.path),
        hint="Boxes cannot be placed. Use the images that belong to the annotation file, or "
        "correct its sizes." + (turned if (width, height) == record.hw else ""),
    )


def collate(samples: list[Sample]) -> Batch:
    """Return the samples as one batch, padded to the largest canvas; pixels are written once.

    Ground truth is padded to the largest number of boxes, and to one where no image has any.
    """
    height = max(sample.view.padded_hw[0] for sample in samples)
    width = max(sample.view.padded_hw[1] for sample in samples)
    most = max(1, *(len(sample.boxes) for sample in samples))
    pixels = np.zeros((len(samples), 3, height, width), np.uint8)
    boxes = np.zeros((len(samples), most, 4), np.float32)
    labels = np.full((len(samples), most), -1, np.int64)
    for row, sample in enumerate(samples):
        own_height, own_width = sample.view.padded_hw
        pixels[row, :, :own_height, :own_width] = sample.pixels
        boxes[row, : len(sample.boxes)] = sample.boxes
        labels[row, : len(sample.labels)] = sample.labels
    return Batch(
        keys=tuple(sample.key for sample in samples),
        views=tuple(sample.view for sample in samples),
        pixels=torch.from_numpy(pixels),
        ground_truth=GroundTruth(torch.from_numpy(boxes), torch.from_numpy(labels)),
    )


def start_worker(_: int) -> None:
    """Prepare a worker process: OpenCV starts no threads, Ctrl-C is left to the main process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _hang_up_quietly


def _hang_up_quietly(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say nothing where the main process was interrupted while it took a batch from this one."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def load_batches(
    dataset: ViewDataset, batches: Iterable[list[ViewKey]], workers: int, device: torch.device
) -> Iterator[Batch]:
    """Yield the batches in order, on the device, still as uint8.

    `workers` processes, but no more than there are cores, load ahead; with 0 this one does the
    work. They change nothing but speed.
    `batches` may run over many epochs: the workers then start once.

    Raises:
        DataError: As the data set raised it. (Through the loader alone it would come out of a
            worker as a traceback, without its hint.)
    """
    loader = DataLoader(
        _Guarded(dataset),
        batch_size=None,
        sampler=batches,
        num_workers=min(workers, os.cpu_count() or 1),
        collate_fn=_unchanged,
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else every loader moves torch's global one
    )
    with interrupts_held() as held:  # half a loader complains, and so do its newborn workers
        loading = iter(loader)
    held.release()
    for loaded in loading:
        if isinstance(loaded, LdkitError):
            raise loaded
        yield loaded.to(device)


class _Guarded(Dataset["Batch | LdkitError"]):
    """Whole batches by their keys; an error for the user comes back as a value."""

    def __init__(self, samples: ViewDataset) -> None:
        self.samples = samples

    def __getitem__(self, keys: list[ViewKey]) -> Batch | LdkitError:
        try:
            return collate([self.samples[key] for key in keys])
        except LdkitError as error:
            return error


def _unchanged(loaded: Any) -> Any:
    return loaded
