"""Components from a local folder or a hub id, in the hub's own layouts."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vlv.checkpoints.external_state_dict import check_pickles
from vlv.checkpoints.identity import (
    INDEX_NAME,
    CheckpointError,
    indexed_parts,
    is_hub_id,
    recorded_place,
    require_same_component,
)
from vlv.checkpoints.schema import ModelKind, require_checkpoint

# What a snapshot needs, without the same weights in other formats beside it.
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "*/*.safetensors", "README.md", "config.yaml"]
_FILES_OF_PARTS = ("*.json", "*.txt", "*.model", "*.safetensors")
_VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("tokenizer.model",),
    ("spiece.model",),
    ("vocab.txt",),
)
_DUPLICATES = ["*.fp16*", "*non_ema*", "safety_checker/*", "onnx/*"]
_HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
# No weight of the model: CLIP's counted positions, Florence-2's language head.
_NO_WEIGHTS = re.compile(r"position_ids$|^lm_head\.|^(language_model\.)?final_logits_bias$")


def resolve_component(source: str, option: str) -> Path:
    """The local folder of a component: `source` itself, or the hub's snapshot of that id.

    Args:
        source: a folder, or a hub id such as `Qwen/Qwen2.5-3B`.
        option: name of the setting, for the message.

    Raises:
        CheckpointError: no such folder, and no hub id that can be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(source):
        raise CheckpointError(
            f"{option}={source} is not there: scripts/download_pretrained.sh fetches the components, or name a folder"
        )
    return _fetch(source, f"{option}={source}")


def resolve_checkpoint(source: str | Path, wanted: ModelKind, options: dict[str, Any]) -> Path:
    """The folder of a finished model of ours: `source` itself, or the hub's snapshot of that id.

    Args:
        options: of `from_pretrained`; those of the hub are taken out of it: revision, token, cache_dir,
            force_download, local_files_only.

    Raises:
        CheckpointError: nothing there, or a model of another kind; says what it is.
    """
    hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
    folder = Path(source).expanduser()
    if not folder.is_dir() and is_hub_id(str(source)):
        folder = _fetch(str(source), str(source), **hub)
    return require_checkpoint(folder, wanted)


def _fetch(hub_id: str, what: str, **hub: Any) -> Path:
    """The snapshot of a hub's model: of a diffusers repository only the parts that its index names, in one format."""
    try:
        # The index first: it says which of a repository's folders are the model.
        folder = Path(snapshot_download(hub_id, allow_patterns=[INDEX_NAME], **hub))
        parts = indexed_parts(folder)
        if parts is None:
            return Path(snapshot_download(hub_id, allow_patterns=_FILES, ignore_patterns=_DUPLICATES, **hub))
        wanted = [INDEX_NAME, "README.md", *(f"{part}/{name}" for part in parts for name in _FILES_OF_PARTS)]
        snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=_DUPLICATES, **hub)
        # A repository may hold a part's weights as a variant alone; its config tells that there are any.
        lacking = [part for part in parts if _lacks_weights(folder / part)]
        if lacking:
            snapshot_download(hub_id, allow_patterns=[f"{part}/*.fp16*" for part in lacking], **hub)
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{what} is neither a folder nor a hub model that can be fetched ({reason})") from None


def _lacks_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))


def load_whole(load: Callable[..., Any], folder: Path, **options: Any) -> Any:
    """Load with a library's `from_pretrained`; every weight of the model must be in the folder, and nothing else.

    The libraries initialise what is missing at random and continue. A weight that is tied to another is not missing.

    Args:
        load: `from_pretrained` of a class of transformers or diffusers.
        options: passed on.

    Raises:
        CheckpointError: weights that are missing, have no place, are of another shape, or cannot be read.
    """
    try:
        with _no_reports(), no_progress_bars():
            # Other shapes are reported as the rest is, instead of raised in a text of many lines.
            model, report = load(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except (SafetensorError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        check_pickles(folder)  # each library has a text of its own for them, of many lines or without the reason
        if isinstance(error, (RuntimeError, pickle.UnpicklingError)):
            raise
        reason = str(error).splitlines()[0].split(". ")[0]
        raise CheckpointError(f"{folder}: its weights are damaged or not complete ({reason})") from None
    for name, theirs, ours in sorted(report["mismatched_keys"]):
        raise CheckpointError(f"{folder}: {name} has shape {tuple(theirs)}, the model wants {tuple(ours)}")
    unexpected = [name for name in report["unexpected_keys"] if is_weight(name)]
    require_same_names(folder, sorted(report["missing_keys"]), sorted(unexpected))
    for config in (model.config, getattr(model, "generation_config", None)):
        forget_code(config)
    return model


def is_weight(name: str) -> bool:
    """Whether a tensor of this name belongs to the model: files of other classes or times have more."""
    return not _NO_WEIGHTS.search(name)


def forget_code(config: object) -> None:
    """Drop `auto_map`: it names code of the original repository, and would go into each checkpoint of this config."""
    if "auto_map" in getattr(config, "__dict__", {}):
        del config.__dict__["auto_map"]


def require_same_names(place: Path, missing: list[str], unexpected: list[str]) -> None:
    """Refuse weights that are not exactly a model's.

    Raises:
        CheckpointError: how many are missing and unexpected, and the first of each.
    """
    for names, what in ((missing, "missing"), (unexpected, "unexpected")):
        if names:
            raise CheckpointError(
                f"{place} does not fit the model: {len(names)} weights are {what}, the first is {names[0]}"
            )


@contextmanager
def _no_reports() -> Iterator[None]:
    """Keep back the libraries' tables of weights that do not fit: `load_whole` reports them in a line."""
    loggers = [logging.getLogger(f"{library}.modeling_utils") for library in ("transformers", "diffusers.models")]
    # Not by their level: from warning up, transformers logs what tensor parallelism would leave whole.
    for logger in loggers:
        logger.addFilter(_nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_nothing)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off the libraries' bars of loading while the block runs, and put them back as they were.

    A script that calls our `from_pretrained` should neither see the libraries' bars nor lose those of its own calls.
    Bars of downloads are not touched: they run before, and for minutes.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
    hub_was_off = are_progress_bars_disabled()  # transformers' switch turns the hub's too
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        if hub_was_off:
            disable_progress_bars()


def _nothing(_: logging.LogRecord) -> bool:
    return False


def load_language_model(folder: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Any causal language model that transformers loads.

    Args:
        options: of its `from_pretrained`, as `quantization_config`.

    Raises:
        CheckpointError: a model of another kind, or weights that do not fit.
    """
    require_language_model(AutoConfig.from_pretrained(folder), str(folder))
    return load_whole(AutoModelForCausalLM.from_pretrained, folder, dtype=dtype, **options)


def require_language_model(config: PreTrainedConfig, place: str) -> None:
    """Refuse the config of what is no causal language model.

    Raises:
        CheckpointError: names the place and the type.
    """
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise CheckpointError(f"{place} is a model of type {config.model_type}: give a causal language model")


def load_tokenizer(folder: Path, option: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a component's folder.

    Raises:
        CheckpointError: there is none, or its vocabulary is missing: transformers would make one of the special
            tokens alone, and continue.
    """
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        raise CheckpointError(
            f"{option}: {folder} holds no vocabulary (tokenizer.json, or vocab.json with merges.txt): "
            "the copy or download is not complete"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{option}: the tokenizer in {folder} cannot be read ({error})") from None
    # As in `forget_code`; a tokenizer writes its own file from these.
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer


def resolve_base(identity: dict[str, str], given: str | None, option: str, checkpoint: Path) -> str:
    """The place of a frozen base: the given one, or where training found it; checked to be the same.

    Raises:
        CheckpointError: it is not there, or is another component.
    """
    source = given or recorded_place(identity["source"], checkpoint)
    try:
        folder = resolve_component(source, option)
    except CheckpointError:
        if given:
            raise
        raise CheckpointError(
            f"{checkpoint} was trained on {source}, which is not there any more: set {option} to where it lies now"
        ) from None
    require_same_component(option.removesuffix("_model_path"), folder, identity, option)
    return source


def load_trained(model: nn.Module, path: Path) -> None:
    """Fill a model's trained parameters from a safetensors file that holds exactly them.

    Raises:
        CheckpointError: a name or a shape that does not fit.
    """
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or not complete ({error}): copy or download it again") from None
    wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
    require_same_names(path, sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys()))
    for name, value in wanted.items():
        if value.shape != weights[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the model wants {tuple(value.shape)}"
            )
        value.data.copy_(weights[name])
