"""Model files: weights and JSON text, nothing that could run, nothing of a teacher.

    NAME.pt            torch's zip: {"ldkit": text, "weights": {name: tensor}}
    NAME.safetensors   the same tensors, the text in the metadata

The text is one JSON object: format, version, the detector section of the recipe, class names,
the fingerprint of the weights, where they came from, and a digest of all that.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from ldkit.errors import CheckpointError, UsageError
from ldkit.files import canonical_json, fingerprint, short, write_bytes
from ldkit.models.tensor_file import read_tensor_file

_TEXT = "ldkit"
_HINT = (
    "Take a model file that ldkit wrote (.pt or .safetensors); `ldkit teacher import` makes one of "
    "a checkpoint of mmdetection."
)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A trained detector at rest.

    `detector` is the recipe's detector section as JSON, `origin` says where the weights came
    from (free JSON). There is no place for a second model: a student's file holds the student.
    """

    weights: dict[str, Tensor]
    detector: dict[str, Any]
    classes: tuple[str, ...]
    origin: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Return the identity of the weights (computed anew: half a second per gigabyte)."""
        return weights_fingerprint(self.weights)


class _Header(BaseModel):
    """The JSON text of a model file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["ldkit model"] = "ldkit model"
    version: Literal[1] = 1
    detector: dict[str, Any]
    classes: tuple[str, ...]
    fingerprint: str
    origin: dict[str, Any]
    digest: str = ""

    def own_digest(self) -> str:
        """Return the fingerprint of everything but `digest`."""
        return fingerprint(self.model_dump(mode="json", exclude={"digest"}))


def write_model(path: Path, file: ModelFile) -> None:
    """Write a model file, atomically; equal contents give equal bytes.

    Raises:
        UsageError: The name ends in neither `.pt` nor `.safetensors`.
        StorageError: It could not be written; what was there before is still there.
    """
    refuse_unknown_ending(path)
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in file.weights.items()
    }
    header = _Header(
        detector=file.detector,
        classes=file.classes,
        fingerprint=weights_fingerprint(weights),
        origin=file.origin,
    )
    header = header.model_copy(update={"digest": header.own_digest()})
    text = canonical_json(header.model_dump(mode="json"))
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(weights, {_TEXT: text})
    else:
        buffer = io.BytesIO()  # a file on a full disk would fail inside torch, without a reason
        torch.save({_TEXT: text, "weights": weights}, buffer)
        content = buffer.getvalue()
    write_bytes(path, content)


def refuse_unknown_ending(path: Path) -> None:
    """Check the name of a model file, before hours of training end in it.

    Raises:
        UsageError: The name ends in neither `.pt` nor `.safetensors`.
    """
    if path.suffix not in {".pt", ".safetensors"}:
        raise UsageError(
            "is no name for a model file, which ends in .pt or .safetensors.",
            where=str(path),
            hint=f"For example {path.with_suffix('.pt')}.",
        )


def read_model(path: Path) -> ModelFile:
    """Return what a model file holds, after checking it against its own fingerprint.

    Raises:
        CheckpointError: The file is missing, a folder, truncated, damaged, of another tool, or
            of a newer ldkit.
    """
    file = read_tensor_file(path, _TEXT, "an ldkit model file", _HINT)
    if not file.text:
        some = ", ".join([*file.tensors, "none"][:3])
        raise CheckpointError(
            f"is not an ldkit model file: it holds {len(file.tensors)} tensors ({some}, …) and "
            "nothing that says what they are.",
            where=str(path),
            hint=_HINT,
        )
    try:
        header = _Header.model_validate_json(file.text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "JSON"
        raise CheckpointError(
            f"has a description that cannot be read ({place}: {problem['msg']}).",
            where=str(path),
            hint="It is damaged, or a newer ldkit wrote it; then update ldkit.",
        ) from error
    for what, found, written in (
        ("description", header.own_digest(), header.digest),
        ("weights", weights_fingerprint(file.tensors), header.fingerprint),
    ):
        if found != written:
            raise CheckpointError(
                f"is damaged: its {what} changed since it was written ({short(found)}, "
                f"expected {short(written)}).",
                where=str(path),
                hint="Copy it again from where it was made.",
            )
    return ModelFile(file.tensors, header.detector, header.classes, header.origin)


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over sorted names, types, shapes and bytes.

    It belongs to the weights, not to a file, a device or a memory layout.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a module: every one of its tensors, and nothing else.

    Raises:
        CheckpointError: Names are missing or unexpected, or shapes differ; all are listed and
            the module is as it was.
    """
    expected = module.state_dict()
    problems = misfits(expected, weights)
    problems += [f"unexpected  {name}" for name in weights if name not in expected]
    if problems:
        raise CheckpointError(
            "does not fit this detector.\n" + listed(problems),
            where=where,
            hint="The file belongs to another architecture, number of classes or reg_max.",
        )
    module.load_state_dict(dict(weights))


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return one line for each expected tensor that is missing or has another shape."""
    lines = [f"missing     {name}" for name in expected if name not in found]
    for name in expected:
        if name in found and found[name].shape != expected[name].shape:
            there, here = tuple(found[name].shape), tuple(expected[name].shape)
            lines.append(f"misshapen   {name}: {there} in the file, {here} here")
    return lines


def listed(lines: list[str], limit: int = 8) -> str:
    """Return the lines, indented, with a count in place of those beyond `limit`."""
    more = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(f"  {line}" for line in [*lines[:limit], *more])
