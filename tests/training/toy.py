"""The smallest training run: a net with running statistics, and batches that are a function of
their position."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ldkit.structures import Batch, GroundTruth, LossTerms, View, ViewKey
from ldkit.training.checkpoint import TrainState
from ldkit.training.loop import Course, EpochBatches, StepFunction
from ldkit.training.optimizer import adamw, sgd
from ldkit.training.schedule import CosineSchedule

STEPS_PER_EPOCH = 4
VIEW = View(source_hw=(8, 8), resized_hw=(8, 8), padded_hw=(8, 8), flip=False)


class ToyNet(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.first(images)).relu()
        return self.last(hidden) * self.scale


def toy_batch(position: int) -> Batch:
    generator = torch.Generator().manual_seed(position)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    truth = GroundTruth(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    keys = (ViewKey(100 + position, 0), ViewKey(200 + position, 0))
    return Batch(keys, (VIEW, VIEW), pixels, truth)


def toy_batches(epoch: int, first: int) -> Iterator[Batch]:
    for position in range(first, STEPS_PER_EPOCH):
        yield toy_batch(epoch * STEPS_PER_EPOCH + position)


def toy_step(state: TrainState) -> StepFunction:
    def step(batch: Batch) -> LossTerms:
        out = state.model(batch.pixels / 255.0)
        terms = LossTerms(out.square().mean(), (out - 1).abs().mean(), out.std())
        if state.companion is None:
            return terms
        return terms._replace(imitation=(state.companion(out) - 1).square().mean())

    return step


def toy_companion() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))


def toy_state(
    kind: str = "sgd",
    *,
    seed: int = 0,
    width: int = 8,
    channels_last: bool = False,
    companion: bool = False,
) -> TrainState:
    torch.manual_seed(seed)
    model, beside = ToyNet(width), toy_companion() if companion else None
    trained = nn.ModuleList([model] if beside is None else [model, beside])
    if channels_last:
        trained.to(memory_format=torch.channels_last)
    if kind == "sgd":
        optimizer = sgd(trained, lr=0.1, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = adamw(trained, lr=0.1, betas=(0.9, 0.999), weight_decay=0.02)
    return TrainState(model, optimizer, companion=beside)


def toy_course(
    max_steps: int | None = None,
    clip_norm: float | None = None,
    measure_every: int | None = None,
) -> Course:
    schedule = CosineSchedule(base_lr=0.05, epochs=200, final=0.1, warmup_steps=3, warmup_start=0.1)
    return Course(schedule, STEPS_PER_EPOCH, max_steps, clip_norm, measure_every)


def counted(batches: EpochBatches, calls: list[tuple[int, int]]) -> EpochBatches:
    def factory(epoch: int, first: int) -> Iterator[Batch]:
        calls.append((epoch, first))
        yield from batches(epoch, first)

    return factory


def bits(state: TrainState) -> dict[str, bytes]:
    """Everything a step changes, to the bit."""
    tensors = dict(state.model.state_dict())
    if state.companion is not None:
        tensors |= {f"companion.{k}": v for k, v in state.companion.state_dict().items()}
    for index, saved in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{index}/{key}": value for key, value in saved.items() if value is not None}
    return {name: value.contiguous().numpy().tobytes() for name, value in tensors.items()}
