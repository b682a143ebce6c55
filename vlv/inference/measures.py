"""FID and KID of reconstructed pictures against the originals that the model was shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from vlv.evaluation.distances import set_distances
from vlv.evaluation.extractors import FeatureExtractor, resize_square
from vlv.inference.images import forked_loader
from vlv.inference.journal import Journal
from vlv.inference.pictures import PictureFolder
from vlv.inference.processes import Processes
from vlv.inference.progress import Progress

_ORIGINAL = "original"


def measure_pictures(
    pictures: PictureFolder,
    names: Sequence[str],
    extractor: FeatureExtractor,
    journal: Journal,
    processes: Processes,
    settings: dict[str, Any],
    batch_size: int,
    num_workers: int,
) -> dict[str, Any]:
    """Compare the pictures of each seed with the originals; every process calls this.

    The processes take features of their shares; the first one puts them into the order of the names, so the
    values do not depend on the number of processes.

    Args:
        settings: what each value is written down with: guidance, steps, scheduler, checkpoint.

    Returns:
        What metrics.json holds, on the first process: an entry a seed and, over several, mean and standard
        deviation; of fewer than 2 images a note and the conditions. Elsewhere an empty dict.
    """
    conditions = {
        "n": len(names),
        "extractor": extractor.name,
        "resizer": f"{extractor.resizer} to {extractor.side}",
        **{key: value for key, value in settings.items() if key != "seeds"},
    }
    if len(names) < 2:
        note = f"{len(names)} image: FID and KID need at least 2, so nothing was measured"
        if processes.is_first:
            print(note)
        return {"seeds": [], "note": note, "seed": list(pictures.seeds), **conditions} if processes.is_first else {}
    features = _features_of_share(pictures, names, extractor, processes, batch_size, num_workers)
    save_file(features, journal.folder / f"features_{processes.index}.safetensors")
    processes.wait()
    if not processes.is_first:
        return {}
    shares = [load_file(journal.folder / f"features_{index}.safetensors") for index in range(processes.count)]
    gathered = {key: _interleave([share[key] for share in shares]) for key in features}
    values = [_seed_values(gathered, seed, extractor) for seed in pictures.seeds]
    seeds = [{"seed": seed, **value, **conditions} for seed, value in zip(pictures.seeds, values, strict=True)]
    return {"seeds": seeds, **_over_seeds(values, conditions, list(pictures.seeds))}


def _seed_values(features: dict[str, Tensor], seed: int, extractor: FeatureExtractor) -> dict[str, float]:
    distances = set_distances(features[_ORIGINAL], features[f"seed_{seed}"])
    values = {extractor.frechet_key: distances.frechet, extractor.kernel_key: distances.kernel}
    if distances.kernel_std is not None:
        values[f"{extractor.kernel_key}_subset_std"] = distances.kernel_std
    return values


def _over_seeds(values: list[dict[str, float]], conditions: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    if len(values) < 2:
        return {}
    keys = [key for key in values[0] if not key.endswith("_subset_std")]
    mean = {key: fmean(value[key] for value in values) for key in keys}
    spread = {key: stdev(value[key] for value in values) for key in keys}
    return {"mean": {**mean, "seed": seeds, **conditions}, "std": {**spread, "seed": seeds, **conditions}}


def _interleave(shares: list[Tensor]) -> Tensor:
    """Undo the sharing: row i of process p is row i * count + p of all."""
    rows = sum(len(share) for share in shares)
    whole = shares[0].new_empty((rows, shares[0].shape[1]))
    for index, share in enumerate(shares):
        if len(share):  # more processes than images leave some without
            whole[index :: len(shares)] = share
    return whole


class PictureFiles(Dataset):
    """PNG files, resized for an extractor."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        """Read `paths` as squares of `side` pixels."""
        self._paths, self._side = paths, side

    def __getitem__(self, index: int) -> Tensor:
        """Return uint8 pixels [3, side, side]."""
        with Image.open(self._paths[index]) as picture:
            square = resize_square(picture.convert("RGB"), self._side)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _features_of_share(
    pictures: PictureFolder,
    names: Sequence[str],
    extractor: FeatureExtractor,
    processes: Processes,
    batch_size: int,
    num_workers: int,
) -> dict[str, Tensor]:
    """Features [n, D] of this process's share, of the originals and of each seed."""
    share = processes.share(names)
    files = {_ORIGINAL: [pictures.original(name) for name in share]}
    files |= {f"seed_{seed}": [pictures.reconstruction(name, seed) for name in share] for seed in pictures.seeds}
    progress = Progress("measures", len(names) * len(files), processes)
    features = {}
    for key, paths in files.items():
        batches = [list(range(len(paths)))[start : start + batch_size] for start in range(0, len(paths), batch_size)]
        rows = []
        for pixels in forked_loader(PictureFiles(paths, extractor.side), batches, torch.stack, num_workers):
            rows.append(extractor(pixels).cpu())
            progress.advance(len(pixels))
        features[key] = torch.cat(rows) if rows else torch.empty(0, 0)
    progress.close()
    return features
