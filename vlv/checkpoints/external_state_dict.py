"""State dicts of other code, opened without running any of it: safetensors, or pickles of tensors alone."""

from __future__ import annotations

import pickle
import shlex
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlv.checkpoints.identity import CheckpointError, read_json

# Keys under which training scripts put the state dict, from the outside in: they may be nested.
_WRAPPINGS = ("model_state_dict", "state_dict", "module", "model")
# In the order of preference: safetensors before pickles.
_NAMES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "model.pt",
    "pytorch_model.pt",
)
# The safetensors names of the number formats that weights come in; what is not here is no weight of ours.
_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_ZERO_PARTS = ("*zero_pp_rank_*", "*_optim_states.pt")
_DEEPSPEED_MODEL = "mp_rank_00_model_states.pt"


class ExternalStateDict:
    """The tensors of a checkpoint by name, read one at a time."""

    def __init__(
        self,
        path: Path,
        shapes: dict[str, tuple[int, ...]],
        dtypes: dict[str, torch.dtype | str],
        read: Callable[[str], Tensor],
    ) -> None:
        """Hold what is known without reading a tensor.

        Args:
            dtypes: number format of each tensor; the file's own word for one that torch is not known to have.
            read: gives a tensor by name.
        """
        self.path = path
        self.shapes = shapes
        self.dtypes = dtypes
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; its pages are read from the file when they are used."""
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_state_dict(path: Path) -> ExternalStateDict:
    """Open a state dict: a file, or a folder that holds one.

    Raises:
        CheckpointError: nothing there, a damaged file, a pickle that needs more than tensors, or a
            DeepSpeed folder that is still to be consolidated.
    """
    if not path.exists():
        raise CheckpointError(f"{path} is not there: give the folder of a checkpoint, or a file of weights")
    if path.is_dir():
        index = _index(path)
        if index is not None:
            return _open_sharded(path, index)
        found = _whole_file(path)
        if found is None:
            _refuse_deepspeed(path)
            raise CheckpointError(f"{path} holds no state dict: expected one of {', '.join(_NAMES)}")
        path = found
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def holds_weights(folder: Path) -> bool:
    """Whether a folder has a state dict that `open_state_dict` would open."""
    return _index(folder) is not None or _whole_file(folder) is not None


def check_pickles(folder: Path) -> None:
    """Open each pickled weights file of a folder as tensors alone.

    Raises:
        CheckpointError: one that needs more than tensors, or that is damaged.
    """
    for path in sorted(folder.glob("*.bin")):
        _open_pickle(path)


def _index(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.index.json"))), None)


def _whole_file(folder: Path) -> Path | None:
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def _refuse_deepspeed(folder: Path) -> None:
    # The published code names the steps itself (`step_1000`); DeepSpeed's own name is `global_step1000`.
    steps = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _is_deepspeed_step(entry))
    if _is_deepspeed_step(folder):
        whole, step = folder.parent, folder
    elif steps:
        # The newest: by length first, as by its letters step_999 would come after step_1000.
        whole, step = folder, max(steps, key=lambda entry: (len(entry.name), entry.name))
    else:
        return
    if not any(True for pattern in _ZERO_PARTS for _ in step.glob(pattern)):
        raise CheckpointError(
            f"{folder} is a DeepSpeed checkpoint without the optimizer states from which zero_to_fp32.py makes the "
            f"weights: copy all files of {step.name}, or import {step / _DEEPSPEED_MODEL}"
        )
    # Without a tag the script takes the step that `latest` names, which need not be the one asked for.
    tag = "" if step != folder and (whole / "latest").is_file() else f" -t {shlex.quote(step.name)}"
    place = shlex.quote(str(whole))
    raise CheckpointError(
        f"{folder} is a DeepSpeed ZeRO checkpoint, in pieces. With your own DeepSpeed, run "
        f"`python {shlex.quote(f'{whole}/zero_to_fp32.py')} {place} consolidated{tag}` and import `consolidated`. "
        "Mind that this unpickles the files: only do it with ones whose origin you trust"
    )


def _is_deepspeed_step(folder: Path) -> bool:
    return any(True for pattern in (*_ZERO_PARTS, _DEEPSPEED_MODEL) for _ in folder.glob(pattern))


def _open_safetensors(path: Path) -> ExternalStateDict:
    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not complete ({error})") from None
    shapes = {name: tuple(value.get_shape()) for name, value in slices.items()}
    words = {name: str(value.get_dtype()) for name, value in slices.items()}
    return ExternalStateDict(
        path, shapes, {name: _DTYPES.get(word, word) for name, word in words.items()}, file.get_tensor
    )


def _open_sharded(folder: Path, index: Path) -> ExternalStateDict:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{index} is no index of shards: its weight_map does not give a file for each weight")
    missing = sorted({name for name in places.values() if not (folder / name).is_file()})
    if missing:
        raise CheckpointError(f"{folder} is not complete: {', '.join(missing[:3])} is missing")
    files = {name: open_state_dict(folder / name) for name in sorted(set(places.values()))}
    try:
        shapes = {name: files[file].shapes[name] for name, file in places.items()}
    except KeyError as error:
        raise CheckpointError(f"{folder}: {index.name} names {error}, which its shard does not hold") from None
    dtypes = {name: files[file].dtypes[name] for name, file in places.items()}
    return ExternalStateDict(folder, shapes, dtypes, lambda name: files[places[name]][name])


def _open_pickle(path: Path) -> ExternalStateDict:
    try:
        loaded = _load_pickle(path)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is refused: it is a pickle that needs more than tensors, and loading it could run code. "
            "Ask its author for safetensors, or save its state dict alone in an environment you trust"
        ) from None
    # What is no pickle at all fails wherever the reader happens to be.
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, struct.error) as error:
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged, not complete, or no checkpoint of torch ({reason})") from None
    tensors = _unwrap(loaded)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name")
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return ExternalStateDict(path, shapes, {name: value.dtype for name, value in tensors.items()}, tensors.__getitem__)


def _load_pickle(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters is reported as an error
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6


def _unwrap(loaded: object) -> dict[str, Tensor]:
    """The state dict inside what a training script saved."""
    for name in _WRAPPINGS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict):
        return {}
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    # A sparse tensor is no weight of these models, and safetensors could not write it.
    return {name: value for name, value in tensors.items() if value.layout is torch.strided}
