"""Look at this machine and folder, on one screen: versions, devices, disk, the hub, checkpoints, and what to do next.

Nothing is changed. The exit code is 1 where something that is needed is missing or broken.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vlv.cli.entry import FAILED_RUN, Call, parse
from vlv.settings import option

GOOD, NOTE, BAD = "ok", "note", "BAD"
_NEEDED = (
    "torch", "transformers", "diffusers", "accelerate", "datasets", "webdataset", "torchmetrics", "safetensors",
    "huggingface_hub", "tokenizers", "pyarrow", "numpy", "pillow", "omegaconf", "wandb",
)  # fmt: skip
_LITTLE_DISK = 20  # GB: a checkpoint of stage 2 with Qwen2.5-3B takes 40, the pretrained components 15


@dataclass(frozen=True)
class DoctorConfig:
    """Where checkpoints are looked for."""

    pretrained: str = option("./pretrained_checkpoints", "folder of the pretrained components")
    outputs: str = option("./outputs", "folder of the runs")
    hub: bool = option(True, "ask whether the hub can be reached")


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, what it is about, what was found, and what to do where that is not good."""

    state: str
    what: str
    found: str
    fix: str = ""


def main(arguments: list[str]) -> None:
    """Read the call, look at everything, and print it."""
    config = parse(DoctorConfig, Call("vlv doctor", __doc__ or ""), arguments)
    findings = [*_versions(), *_devices(), *_disk(), *_hub(config), *_checkpoints(config)]
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        fix = f" - {finding.fix}" if finding.fix else ""
        print(f"{finding.state:<4}  {finding.what:<{width}}  {finding.found}{fix}")
    print(f"\nnext: {_next(findings, config)}")
    if any(finding.state == BAD for finding in findings):
        raise SystemExit(FAILED_RUN)


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(GOOD, "Python", f"{python} in {sys.prefix}")
    tested, others, missing = _tested(), [], []
    for name in _NEEDED:
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            missing.append(name)
            continue
        wanted = tested.get(name.replace("_", "-"), found)
        if found != wanted:
            others.append(f"{name} {found} (tested: {wanted})")
    if missing:
        yield Finding(BAD, "packages", f"missing: {', '.join(missing)}", "pip install -r requirements.txt")
    elif others:
        fix = "if something fails: pip install -c configs/tested_versions.txt -r requirements.txt"
        yield Finding(NOTE, "packages", f"other than tested: {', '.join(others)}", fix)
    else:
        yield Finding(GOOD, "packages", f"{len(_NEEDED)} that are needed, as tested")


def _tested() -> dict[str, str]:
    """The newest versions that the tests passed with, by canonical name."""
    from vlv.resources import recipes_folder

    lines = (recipes_folder() / "tested_versions.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: number for name, _, number in pairs}


def _devices() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    try:
        import torch

        from vlv.training.precision import cpu_has_bf16
    except ImportError:  # said above
        return
    bf16 = ", bf16" if cpu_has_bf16() else ""
    yield Finding(GOOD, "processor", f"{cores} cores, {memory:.0f} GB of memory{bf16}")
    if not torch.cuda.is_available():
        fix = "the small world trains on a CPU in minutes, real weights want a GPU"
        yield Finding(NOTE, "GPU", f"none that torch {torch.__version__} sees", fix)
        return
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding(GOOD, f"GPU {number}", f"{card.name}, {card.total_memory / 1e9:.0f} GB")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    good = free >= _LITTLE_DISK
    fix = "" if good else "checkpoints of stage 2 take 40 GB: give output_dir on another disk"
    yield Finding(GOOD if good else NOTE, "disk", f"{free:.0f} GB free here", fix)


def _hub(config: DoctorConfig) -> Iterator[Finding]:
    import urllib.request  # here, as it loads ssl, which `--help` does not need

    if not config.hub:
        return
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5):
            yield Finding(GOOD, "hub", f"{address} answers")
    except (OSError, ValueError) as error:
        fix = "only vlv download, hub ids and hub: data need it"
        yield Finding(NOTE, "hub", f"{address} cannot be reached ({getattr(error, 'reason', error)})", fix)


def _checkpoints(config: DoctorConfig) -> Iterator[Finding]:
    from vlv.checkpoints.schema import kind_of, require_checkpoint
    from vlv.cli.download import ALL, COMPONENTS, check

    pretrained = Path(config.pretrained)
    for part in ALL:
        folder = pretrained / COMPONENTS[part].folder
        if not folder.is_dir():
            yield Finding(NOTE, part, f"{folder} is not there", f"vlv download {part}")
            continue
        state = check(COMPONENTS[part], folder)
        fix = "" if state.ok else f"vlv download {part}"
        yield Finding(GOOD if state.ok else BAD, part, f"{folder}: {state}", fix)
    for folder in sorted([*pretrained.glob("*"), *Path(config.outputs).glob("*/final")]):
        kind = kind_of(folder) if folder.is_dir() else None
        if kind is None:
            continue
        try:
            require_checkpoint(folder, kind)
            yield Finding(GOOD, kind, f"{folder}")
        except (ValueError, OSError) as error:
            yield Finding(BAD, kind, str(error), "train or import it once more")


def _next(findings: list[Finding], config: DoctorConfig) -> str:
    """What a user would do now."""
    broken = next((finding for finding in findings if finding.state == BAD), None)
    if broken is not None:
        return broken.fix
    of = {finding.what: finding.found for finding in findings if finding.state == GOOD}
    if "stage2" in of:
        return f"vlv caption photos ckpt_dir={of['stage2']}"
    if "stage1" in of:
        return f"vlv stage2 diffusion_model_path={of['stage1']}, and captioned images as dataset_path"
    if all(part in of for part in ("sd", "florence2")):
        return "vlv stage1 train_dataset_path=images (vlv stage1 --help)"
    return f"vlv quickstart for the small world, vlv download for the real weights ({config.pretrained})"
