"""The measures of reconstructed pictures against the originals that the model was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NotRequired, TypedDict

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from vlv.data.loader import load_batches
from vlv.evaluation.extractors import FeatureExtractor
from vlv.evaluation.extractors.interface import resize_square
from vlv.evaluation.interface import FeatureMeasure, Legend, PairMeasure
from vlv.evaluation.registry import feature_measures, pair_measures
from vlv.inference.images import ReadSettings
from vlv.inference.journal import Journal, JsonObject
from vlv.inference.pictures import PictureFolder
from vlv.inference.processes import Processes
from vlv.inference.progress import SharedProgress

_ORIGINAL = "original"
_SUBSET_STD = "_subset_std"


class Metrics(TypedDict, total=False):
    """What metrics.json holds.

    measures: how each measure is called and explained; every key in it stands in the entries below.
    seeds: an entry a seed: `seed`, the measures, the conditions (n, extractor, resizer, checkpoint, sampling).
    mean, std: over several seeds.
    note: what was left out for want of images.
    """

    measures: dict[str, Legend]
    seeds: list[JsonObject]
    mean: JsonObject
    std: JsonObject
    note: NotRequired[str]


@dataclass(frozen=True)
class _Plan:
    """The measures that are defined for so many images."""

    extractor: FeatureExtractor
    features: list[FeatureMeasure]
    pairs: list[PairMeasure]

    @property
    def legends(self) -> dict[str, Legend]:
        of_features = {measure.key(self.extractor.name): measure.legend() for measure in self.features}
        return of_features | {measure.name: measure.legend() for measure in self.pairs}


def measure_pictures(
    pictures: PictureFolder,
    names: Sequence[str],
    extractor: FeatureExtractor,
    journal: Journal,
    settings: JsonObject,
    reading: ReadSettings,
    processes: Processes,
) -> Metrics:
    """Compare the pictures of each seed with the originals; every process calls this.

    Each process measures its share of the images: their features, and each pair of pictures. The first one puts the
    shares into the order of the names, so the values do not depend on the number of processes.

    Args:
        settings: the conditions that stand beside each value: guidance, steps, scheduler, checkpoint.

    Returns:
        What metrics.json holds, on the first process; elsewhere an empty dict.
    """
    plan, note = _plan(extractor, len(names))
    values = _measure_share(pictures, names, plan, reading, processes)
    # By files: `Processes` can wait for each other and nothing more, so that a notebook needs no launcher.
    save_file(values, journal.folder / f"measures_{processes.index}.safetensors")
    processes.wait()
    if not processes.is_first:
        return {}
    shares = [load_file(journal.folder / f"measures_{index}.safetensors") for index in range(processes.count)]
    gathered = {key: _interleave([share[key] for share in shares]) for key in values}
    conditions: JsonObject = {
        "n": len(names),
        "extractor": extractor.name,
        "resizer": f"{extractor.resizer} to {extractor.side}",
        **{key: value for key, value in settings.items() if key != "seeds"},
    }
    of_seeds = [_seed_values(gathered, seed, plan) for seed in pictures.seeds]
    metrics: Metrics = {
        "measures": plan.legends,
        "seeds": [{"seed": seed, **v, **conditions} for seed, v in zip(pictures.seeds, of_seeds, strict=True)],
    }
    if len(of_seeds) > 1:
        metrics |= _over_seeds(of_seeds, {"seed": list(pictures.seeds), **conditions})
    if note:
        print(note)
        metrics["note"] = note
    return metrics


def _plan(extractor: FeatureExtractor, count: int) -> tuple[_Plan, str]:
    """The measures of so many images, and a note about those that need more."""
    features, pairs = feature_measures(), pair_measures()
    named = [(measure.key(extractor.name), measure.minimum) for measure in features]
    named += [(measure.name, measure.minimum) for measure in pairs]
    left_out = [f"{key} needs at least {minimum}" for key, minimum in named if count < minimum]
    note = f"{count} image{'s' * (count != 1)}: {' and '.join(left_out)}, so left out" if left_out else ""
    plan = _Plan(extractor, [m for m in features if m.minimum <= count], [m for m in pairs if m.minimum <= count])
    return plan, note


def _seed_values(gathered: Mapping[str, Tensor], seed: int, plan: _Plan) -> dict[str, float]:
    values: dict[str, float] = {}
    for measure in plan.features:
        key = measure.key(plan.extractor.name)
        value = measure.compute(gathered[_ORIGINAL], gathered[_features_of(seed)])
        values[key] = value.value
        if value.subset_std is not None:
            values[key + _SUBSET_STD] = value.subset_std
    return values | {m.name: fmean(gathered[_pairs_of(m, seed)].tolist()) for m in plan.pairs}


def _over_seeds(values: list[dict[str, float]], conditions: JsonObject) -> Metrics:
    # The spread over subsets says how exact one value is; its mean over seeds would mean nothing.
    keys = [key for key in values[0] if not key.endswith(_SUBSET_STD)]
    mean = {key: fmean(value[key] for value in values) for key in keys}
    spread = {key: stdev(value[key] for value in values) for key in keys}
    return {"mean": {**mean, **conditions}, "std": {**spread, **conditions}}


def _interleave(shares: list[Tensor]) -> Tensor:
    """Undo the sharing: row i of process p is row i * count + p of all."""
    rows = sum(len(share) for share in shares)
    whole = shares[0].new_empty((rows, *shares[0].shape[1:]))
    for index, share in enumerate(shares):
        if len(share):  # more processes than images leave some without, and without the features' width
            whole[index :: len(shares)] = share
    return whole


def _features_of(seed: int) -> str:
    return f"features_of_seed_{seed}"


def _pairs_of(measure: PairMeasure, seed: int) -> str:
    return f"{measure.name}_of_seed_{seed}"


class PictureGroups(Dataset):
    """PNG files, in groups of one size: an image's original and the picture of each seed."""

    def __init__(self, groups: Sequence[Sequence[Path]], side: int) -> None:
        """Read each group, whole and as squares of `side` pixels."""
        self._groups, self._side = groups, side

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return uint8 pixels [1 + S, 3, R, R], and [1 + S, 3, side, side] as the extractor takes them."""
        whole, squares = [], []
        for path in self._groups[index]:
            with Image.open(path) as file:
                picture = file.convert("RGB")
            whole.append(_pixels(picture))
            squares.append(_pixels(resize_square(picture, self._side)))
        return torch.stack(whole), torch.stack(squares)


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _measure_share(
    pictures: PictureFolder, names: Sequence[str], plan: _Plan, reading: ReadSettings, processes: Processes
) -> dict[str, Tensor]:
    """This process's share: features [n, D] of the originals and of each seed, and each pair's value, [n] float64."""
    share = processes.share(names)
    groups = [[pictures.original(n), *(pictures.reconstruction(n, seed) for seed in pictures.seeds)] for n in share]
    places = range(len(groups))
    batches = [list(places[start : start + reading.batch_size]) for start in places[:: reading.batch_size]]
    features: dict[str, list[Tensor]] = {key: [] for key in (_ORIGINAL, *map(_features_of, pictures.seeds))}
    pairs: dict[str, list[float]] = {_pairs_of(m, seed): [] for m in plan.pairs for seed in pictures.seeds}
    progress = SharedProgress("measures", len(names), processes)
    dataset = PictureGroups(groups, plan.extractor.side)
    for batch in load_batches(dataset, batches, list, reading.num_workers, reading.timeout):
        if plan.features:
            squares = torch.stack([group for _, group in batch])  # [B, 1 + S, 3, side, side]
            for place, key in enumerate(features):
                features[key].append(plan.extractor(squares[:, place]))
        # One pair at a time: convolutions round differently in batches of different sizes.
        for whole in (group.to(plan.extractor.device) for group, _ in batch):  # [1 + S, 3, R, R]
            for measure in plan.pairs:
                for seed, picture in zip(pictures.seeds, whole[1:], strict=True):
                    pairs[_pairs_of(measure, seed)].append(measure.compute(whole[0], picture))
        progress.advance(len(batch))
    progress.close()
    rows = {key: torch.cat(parts) if parts else torch.empty(0) for key, parts in features.items()}
    return rows | {key: torch.tensor(values, dtype=torch.float64) for key, values in pairs.items()}
