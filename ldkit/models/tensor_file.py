"""Read files of tensors from anywhere, without running what may hide in them.

A `.pt` file is a pickle, and a pickle can run code. Everything here is read with torch's
`weights_only`, which knows tensors and plain containers and nothing else.
"""

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldkit.errors import CheckpointError

# What torch raises on files that are truncated, foreign or made to confuse it.
_UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The tensors of a file, and the text entry beside them (empty where there is none)."""

    tensors: dict[str, Tensor]
    text: str


def read_tensor_file(path: Path, text_entry: str, wanted: str, hint: str) -> TensorFile:
    """Return the tensors of a `.safetensors` file, or of a file that torch saved.

    Two layouts of torch files are known: names to tensors, and one level more, with the text
    under `text_entry` and the tensors under "weights". A safetensors file holds the text in its
    metadata.

    Args:
        path: The file.
        text_entry: Name of the text entry.
        wanted: What the file should be, with its article; for messages.
        hint: What the user shall do where it is something else.

    Raises:
        CheckpointError: The file is missing, a folder, truncated, or holds something else.
    """
    refuse_missing(path, wanted, hint)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, text_entry)
        with warnings.catch_warnings():  # torch's doubts about a file we are about to judge
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError("may not be read.", where=str(path), hint=hint) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"is not {wanted}: it holds more than tensors and text (nothing of it was run), or is "
            "no file of torch at all.",
            where=str(path),
            hint=hint,
        ) from error
    except (SafetensorError, *_UNREADABLE) as error:
        raise CheckpointError(
            f"is not {wanted}, or it is truncated or damaged.", where=str(path), hint=hint
        ) from error
    file = _sorted_out(content, text_entry)
    if file is None:
        raise CheckpointError(
            f"is not {wanted}: it holds {_described(content)}.", where=str(path), hint=hint
        )
    return file


def refuse_missing(path: Path, wanted: str, hint: str) -> None:
    """Check that there is a file with something in it.

    Raises:
        CheckpointError: It is absent, a folder, or empty.
    """
    if path.is_dir():
        problem = f"is a folder, but {wanted} is expected."
    elif not path.is_file():
        problem = "does not exist."
    elif path.stat().st_size == 0:
        problem = f"is empty, but {wanted} is expected."
    else:
        return
    raise CheckpointError(problem, where=str(path), hint=hint)


def _read_safetensors(path: Path, text_entry: str) -> TensorFile:
    with safe_open(path, framework="pt", device="cpu") as file:
        text = (file.metadata() or {}).get(text_entry, "")
        return TensorFile({name: file.get_tensor(name) for name in file.keys()}, text)  # noqa: SIM118


def _sorted_out(content: object, text_entry: str) -> TensorFile | None:
    text = ""
    found = content
    if isinstance(content, dict) and isinstance(content.get(text_entry), str):
        text, found = content[text_entry], content.get("weights")
    if isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        return TensorFile(found, text)
    return None


def _described(content: object) -> str:
    if not isinstance(content, dict):
        return f"one {type(content).__name__}"
    names = [repr(name) for name in content]
    return f"the entries {', '.join(names[:6])}{', …' if len(names) > 6 else ''}"
