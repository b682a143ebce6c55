"""Look at this machine and folder, on one screen: versions, devices, disk, the hub, checkpoints, and what to do next.

Nothing is changed. The exit code is 1 where something that is needed is missing or broken.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import FAILED_RUN, Call, parse
from vlv.settings import option

if TYPE_CHECKING:
    from vlv.checkpoints.schema import ModelKind

GOOD, NOTE, BAD = "ok", "note", "BAD"
_NEEDED = (
    "torch", "transformers", "diffusers", "accelerate", "datasets", "webdataset", "torchmetrics", "safetensors",
    "huggingface_hub", "tokenizers", "pyarrow", "numpy", "pillow", "omegaconf", "wandb",
)  # fmt: skip
_EXTRAS = ("bitsandbytes", "fastapi", "gradio", "llama-cpp-python", "peft", "ray", "torchao", "trl", "vllm")
_SHOWN = 8  # lines of checkpoints: all fits on a screen of 24
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
    findings = [*_versions(), *_devices(), *_disk(), *_hub(config), *_components(config)]
    checkpoints = list(_checkpoints(config))
    shown = [*findings, *_shortened(checkpoints)]
    width = max(len(finding.what) for finding in shown)
    for finding in shown:
        fix = f" - {finding.fix}" if finding.fix else ""
        print(f"{finding.state:<4}  {finding.what:<{width}}  {finding.found}{fix}")
    print(f"\nnext: {_next([*findings, *checkpoints], config)}")
    if any(finding.state == BAD for finding in shown):
        raise SystemExit(FAILED_RUN)


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(GOOD, "Python", f"{python} in {sys.prefix}")
    needed = _compared(_NEEDED)
    fix = "if something fails: pip install -c configs/tested_versions.txt"
    if needed.missing:
        yield Finding(BAD, "packages", f"missing: {', '.join(needed.missing)}", "pip install -r requirements.txt")
    elif needed.others:
        found = f"other than tested: {', '.join(needed.others)}"
        yield Finding(NOTE, "packages", found, f"{fix} -r requirements.txt")
    else:
        yield Finding(GOOD, "packages", f"{len(_NEEDED)} that are needed, as tested")
    extras = _compared(_EXTRAS)
    found = [f"as tested: {', '.join(extras.same)}"] if extras.same else []
    found += [f"without a tested version: {', '.join(extras.unknown)}"] if extras.unknown else []
    if extras.others:
        found.insert(0, f"other than tested: {', '.join(extras.others)}")
        yield Finding(NOTE, "extras", "; ".join(found), f"{fix} 'vlv[EXTRA]'")
    elif found:
        yield Finding(GOOD, "extras", "; ".join(found))


@dataclass
class Compared:
    """Packages beside the versions that were tested: with the same one, another, none that was kept, or not there."""

    same: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def _compared(names: tuple[str, ...]) -> Compared:
    tested, compared = _tested(), Compared()
    for name in names:
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            compared.missing.append(name)
            continue
        wanted = tested.get(name.replace("_", "-"))
        if wanted is None:
            compared.unknown.append(f"{name} {found}")
        elif found == wanted:
            compared.same.append(name)
        else:
            compared.others.append(f"{name} {found} (tested: {wanted})")
    return compared


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
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    kinds = Counter(f"{card.name}, {card.total_memory / 1e9:.0f} GB" for card in cards)
    for kind, count in kinds.items():  # a line of each kind: a machine with eight has one screen too
        yield Finding(GOOD, "GPU", f"{count} x {kind}" if count > 1 else kind)


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


def _components(config: DoctorConfig) -> Iterator[Finding]:
    from vlv.cli.download import ALL, COMPONENTS, check

    for part in ALL:
        folder = Path(config.pretrained) / COMPONENTS[part].folder
        if not folder.is_dir():
            yield Finding(NOTE, part, f"{folder} is not there", f"vlv download {part}")
            continue
        state = check(COMPONENTS[part], folder)
        fix = "" if state.ok else f"vlv download {part}"
        yield Finding(GOOD if state.ok else BAD, part, f"{folder}: {state}", fix)


def _checkpoints(config: DoctorConfig) -> Iterator[Finding]:
    from vlv.checkpoints.schema import kind_of

    for folder in sorted([*Path(config.pretrained).glob("*"), *Path(config.outputs).glob("*/final")]):
        kind = kind_of(folder) if folder.is_dir() else None
        if kind is not None:
            yield _checkpoint(folder, kind)


def _checkpoint(folder: Path, kind: ModelKind) -> Finding:
    """How a finished model stands: its files, the length of its weights, and the bases that it needs."""
    from vlv.checkpoints.folder_check import check_weights
    from vlv.checkpoints.origin import bases_problems
    from vlv.checkpoints.schema import require_checkpoint

    try:
        state, problems = check_weights(require_checkpoint(folder, kind)), bases_problems(folder)
    except (ValueError, OSError) as error:
        return Finding(BAD, kind, str(error), "train or import it once more")
    if not state.ok:
        return Finding(BAD, kind, f"{folder}: {state}", "copy it again, or train or import it once more")
    if problems:
        use = (
            f"vlv caption photos ckpt_dir={folder}" if kind == "stage2" else f"vlv stage2 diffusion_model_path={folder}"
        )
        options = " ".join(f"{option}=FOLDER" for option in problems)
        return Finding(BAD, kind, next(iter(problems.values())), f"{use} {options}")
    return Finding(GOOD, kind, f"{folder}")


def _shortened(checkpoints: list[Finding]) -> list[Finding]:
    """As many lines as a screen has room for, what is broken first."""
    if len(checkpoints) <= _SHOWN:
        return checkpoints
    ordered = sorted(checkpoints, key=lambda finding: finding.state == GOOD)
    rest = ordered[_SHOWN - 1 :]
    broken = sum(finding.state == BAD for finding in rest)
    state = BAD if broken else GOOD
    return [*ordered[: _SHOWN - 1], Finding(state, "others", f"{len(rest)} more checkpoints, {broken} of them broken")]


def _next(findings: list[Finding], config: DoctorConfig) -> str:
    """What a user would do now."""
    from vlv.cli.download import COMPONENTS, import_command

    broken = next((finding for finding in findings if finding.state == BAD), None)
    if broken is not None:
        return broken.fix
    of = {finding.what: finding.found for finding in findings if finding.state == GOOD}
    if "stage2" in of:
        return f"vlv caption photos ckpt_dir={of['stage2']}"
    if "stage1" in of:
        return f"vlv stage2 diffusion_model_path={of['stage1']}, and captioned images as dataset_path"
    train = "vlv stage1 train_dataset_path=images"
    if "captioner" in of:  # as the authors released it: it captions once it is imported, onto the other three
        lacking = [part for part in ("sd", "florence2", "qwen") if part not in of]
        if not lacking:
            released = Path(config.pretrained) / COMPONENTS["captioner"].folder
            return f"{import_command(released)} (to caption), or {train} (to train)"
        return f"vlv download {' '.join(lacking)}, on which the released captioner is imported"
    if all(part in of for part in ("sd", "florence2")):
        return f"{train} (vlv stage1 --help)"
    return f"vlv quickstart for the small world, vlv download for the real weights ({config.pretrained})"
