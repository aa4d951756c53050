"""The first weights of a backbone: random, from timm's hub, or from a local file."""

import ssl
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from ldkit.errors import CheckpointError, UsageError
from ldkit.models.checkpoint_file import listed, misfits
from ldkit.models.tensor_file import read_tensor_file

# Published with torchvision's first ImageNet weights (IMAGENET1K_V1), not with timm's own. The
# published ResNeXt starts from a file that timm does not have; of timm's, this one was trained on
# ImageNet alone as well, without the millions of other images behind timm's default.
_PUBLISHED_TAGS = {
    "resnet18": "tv_in1k",
    "resnet34": "tv_in1k",
    "resnet50": "tv_in1k",
    "resnet101": "tv_in1k",
    "resnext101_32x4d": "gluon_in1k",
}
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_PATIENCE_S = 5
_OTHER_WAYS = (
    "Set backbone.pretrained (`--set model.backbone.pretrained=...`, or student.backbone) to the "
    "path of a local weights file (.pth or .safetensors, as torchvision and timm offer them), or "
    "to false to start from random weights."
)


def features_only(
    name: str, indices: tuple[int, ...] | None = None, pretrained: bool | str = False
) -> Any:
    """Return timm's network that gives feature maps, with its first weights.

    Args:
        name: timm name.
        indices: Which of its feature maps to give; None: all.
        pretrained: True: timm's weights from the hub; False: random; else a local file.

    Raises:
        UsageError: There are no such weights, they cannot be fetched, or timm cannot give
            feature maps of this network.
        CheckpointError: The local file is broken or does not fit.
    """
    if pretrained is True:
        _refuse_unreachable(name)
    try:
        net = timm.create_model(
            _with_published_tag(name),
            pretrained=pretrained is True,
            features_only=True,
            out_indices=indices,
        )
    except OSError as error:
        raise _unreachable(name, str(error).partition("\n")[0]) from error
    except RuntimeError as error:
        raise UsageError(f"cannot be a backbone (timm: {error}).", where=name) from error
    if isinstance(pretrained, str):
        _load_local(net, Path(pretrained), name)
    return net


def _with_published_tag(name: str) -> str:
    return f"{name}.{_PUBLISHED_TAGS[name]}" if name in _PUBLISHED_TAGS else name


def _refuse_unreachable(name: str) -> None:
    """Check within seconds that the weights can be had: timm's own retries take a minute."""
    weights = timm.models.get_pretrained_cfg(_with_published_tag(name))
    if weights is None or not weights.has_weights:
        raise UsageError("timm has no weights for this network.", where=name, hint=_OTHER_WAYS)
    hub = (weights.hf_hub_id or "").partition("@")[0]
    if not hub or any(isinstance(try_to_load_from_cache(hub, file), str) for file in _HUB_FILES):
        return
    if constants.HF_HUB_OFFLINE:
        raise _unreachable(name, "HF_HUB_OFFLINE is set")
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_PATIENCE_S).close()
    except HTTPError:
        return  # it answers
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        if not isinstance(reason, ssl.SSLError):  # the hub's client brings its own certificates
            raise _unreachable(name, f"{constants.ENDPOINT}: {reason}") from error


def _unreachable(name: str, reason: str) -> UsageError:
    return UsageError(
        f"its pretrained weights cannot be fetched from the hub ({reason}).",
        where=name,
        hint=_OTHER_WAYS,
    )


def _load_local(net: nn.Module, path: Path, name: str) -> None:
    """Load a file of the whole network; parts without a place in `net`, such as fc, are left."""
    hint = f"Take a weights file of {name} as torchvision or timm offer it (names with tensors)."
    children = list(net.named_children())
    inner = children[0][1] if len(children) == 1 else net  # timm may wrap the whole network
    state = inner.state_dict()
    names = {_flat(key): key for key in state}
    tensors = read_tensor_file(path, "ldkit", "a weights file", hint).tensors
    found = {names.get(_flat(key), key): value for key, value in tensors.items()}
    # Counters of batches are absent from older files, and nothing reads them.
    wanted = {key: v for key, v in state.items() if not key.endswith("num_batches_tracked")}
    places = tuple({f"{_flat(key.partition('.')[0])}_" for key in state})
    foreign = [key for key in found if key not in state and _flat(key).startswith(places)]
    problems = misfits(wanted, found) + [f"unexpected  {key}" for key in foreign]
    if problems:
        raise CheckpointError(
            f"does not fit {name}.\n{listed(problems)}", where=str(path), hint=hint
        )
    inner.load_state_dict(state | {key: found[key] for key in state if key in found})


def _flat(key: str) -> str:
    """Return the name that timm's feature networks share with whole ones (stages_0, stages.0)."""
    return key.replace(".", "_")
