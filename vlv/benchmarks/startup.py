"""How long a call takes until something happens, on tiny components, beside importing the libraries alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vlv.benchmarks.calls import require_done
from vlv.benchmarks.pictures import jpegs
from vlv.benchmarks.worlds import World

_LOOK_EVERY = 0.005  # seconds
_IMAGES, _SIDE = 8, 128
_VLV = [sys.executable, "-m", "vlv"]


def measure(world: World, rounds: int, advance: Callable[[int], None]) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` times in turn.

    Raises:
        BenchmarkError: a call failed.
    """
    with TemporaryDirectory(prefix="vlv-benchmark-") as folder:
        root = Path(folder)
        (root / "images").mkdir()
        for number, content in enumerate(jpegs(_IMAGES, _SIDE)):
            (root / "images" / f"{number}.jpg").write_bytes(content)
        calls = _calls(world, root)
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, (call, wanted) in calls.items():
                found[name].append(_seconds(call, wanted, root / "log"))
                advance(1)
    return found


def number_of_calls() -> int:
    """How many calls a round has."""
    return len(_calls(World(*[""] * 5), Path()))


def _calls(world: World, root: Path) -> dict[str, tuple[list[str], Path | None]]:
    """Each call, with the file whose first line ends the measurement; None measures to the call's end."""
    stage1 = [
        *_VLV, "stage1", f"train_dataset_path={root / 'images'}", f"val_dataset_path={root / 'images'}",
        f"stable_diffusion_model_path={world.stable_diffusion}", f"florence2_model_path={world.florence2}",
        "decoder_resolution=64", "encoder_resolution=128", "global_batch_size=8", "num_gpus=1", "num_workers=1",
        "val_pictures=0", "log_every=1", "num_steps=1", f"output_dir={root / 'run'}", "overwrite=true",
    ]  # fmt: skip
    return {
        "importing torch, transformers, diffusers": (
            [sys.executable, "-c", "import torch, transformers, diffusers"],
            None,
        ),
        "vlv --help": ([*_VLV, "--help"], None),
        "vlv stage1 --help": ([*_VLV, "stage1", "--help"], None),
        "vlv stage1 dry_run=true": ([*stage1, "dry_run=true"], None),
        "vlv stage1, to its first training step": (stage1, root / "run" / "metrics.jsonl"),
    }


def _seconds(call: Sequence[str], wanted: Path | None, log: Path) -> float:
    """Seconds until a call ends, or until it has written the first line of a file; it then goes on to its end."""
    if wanted is not None:
        wanted.unlink(missing_ok=True)  # of the round before
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(list(call), stdout=output, stderr=subprocess.STDOUT)
        written = None
        while wanted is not None and written is None and process.poll() is None:
            if wanted.exists() and wanted.stat().st_size:
                written = time.perf_counter() - started
            time.sleep(_LOOK_EVERY)
        code = process.wait()
        seconds = written or time.perf_counter() - started
    require_done(" ".join(call[:4]), code, log)
    return seconds
