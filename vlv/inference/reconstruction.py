"""A set of images drawn back from their embeddings by several processes, compared and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlv.evaluation.extractors import FeatureExtractor
from vlv.inference.gallery import GalleryEntry, write_gallery
from vlv.inference.images import find_inputs, report_bad_images, require_readable
from vlv.inference.journal import Journal, read_json, unused_path, write_json
from vlv.inference.measures import measure_pictures
from vlv.inference.pictures import ImageGenerator, PictureFolder, Sampling, generate_pictures
from vlv.inference.processes import Processes

# What a run writes; of a run with other settings it is set aside.
_OURS = ("originals", "reconstructions", "comparisons", "index.html", "metrics.json", "bad_samples.jsonl")
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class ReconstructionReport:
    """What came of a run: names of the images drawn, how many of them an earlier run had drawn, bad images.

    `metrics` is what metrics.json holds, on the first process; elsewhere it is empty. `measured` names the
    measures in it.
    """

    names: list[str]
    num_reused: int
    bad: dict[str, str]
    metrics: dict[str, Any]
    measured: tuple[str, ...]


def reconstruct_images(
    autoencoder: ImageGenerator,
    image_path: str,
    output_dir: Path,
    *,
    seeds: list[int],
    guidance_scale: float,
    num_inference_steps: int,
    scheduler: str,
    batch_size: int,
    num_workers: int,
    max_image_pixels: int,
    extractor: FeatureExtractor | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] = lambda: None,
    identity: dict[str, Any],
) -> ReconstructionReport:
    """Draw a file, folder or glob from each seed, and write pictures, index.html and metrics.json.

    Pictures that a run of the same settings drew of the same files are kept. Those of other settings are
    moved into a sub-folder `previous.1`. Every process of the run calls this.

    Args:
        extractor: features that FID and KID are taken over; None measures nothing.
        identity: what decides a picture beside this call's own arguments: the checkpoint, the precision.
        wait: returns when all processes have called it.

    Raises:
        ValueError: no images there, none of them readable, or an output that cannot be written.
    """
    processes = Processes(process_index, num_processes, wait)
    sampling = Sampling(sorted(set(seeds), key=seeds.index), guidance_scale, num_inference_steps, scheduler)
    reading = {"batch_size": batch_size, "num_workers": num_workers, "max_image_pixels": max_image_pixels}
    drawn = generate_image_set(
        autoencoder,
        image_path,
        output_dir,
        sampling,
        reading,
        processes,
        identity,
        "output_dir",
        output_dir / "bad_samples.jsonl",
    )
    metrics: dict[str, Any] = {}
    if extractor is not None:
        metrics = measure_pictures(
            drawn.pictures, drawn.names, extractor, drawn.journal, processes, drawn.settings, batch_size, num_workers
        )
    if processes.is_first:
        if extractor is not None:
            write_json(output_dir / "metrics.json", metrics)
        entries = [gallery_entry(drawn.pictures, name) for name in drawn.names]
        write_gallery(output_dir / "index.html", "Reconstructions", drawn.settings, entries, metrics, len(drawn.bad))
        drawn.journal.remove()
    processes.wait()
    measured = (extractor.frechet_key, extractor.kernel_key) if extractor is not None else ()
    return ReconstructionReport(drawn.names, drawn.num_reused, drawn.bad, metrics, measured)


@dataclass(frozen=True)
class GeneratedSet:
    """Images whose pictures are all there.

    names: sorted. num_reused: how many an earlier run had drawn. bad: reasons of the unreadable ones by name.
    settings: what the pictures depend on.
    """

    names: list[str]
    num_reused: int
    bad: dict[str, str]
    pictures: PictureFolder
    journal: Journal
    settings: dict[str, Any]


def generate_image_set(
    autoencoder: ImageGenerator,
    image_path: str,
    output_dir: Path,
    sampling: Sampling,
    reading: dict[str, int],
    processes: Processes,
    identity: dict[str, Any],
    option: str,
    bad_samples: Path | None = None,
) -> GeneratedSet:
    """Draw what is not there yet, by all processes, and wait for them.

    Args:
        reading: batch_size, num_workers and max_image_pixels.
        identity: what decides a picture beside `sampling`.
        option: the setting that gave `output_dir`, for messages.
        bad_samples: the file that unreadable images are written to; None where another step names them.

    Raises:
        ValueError: no images there, none of them readable, or an output that cannot be written.
    """
    source, names, paths = find_inputs(image_path, output_dir, option)
    pictures = PictureFolder(output_dir, names, sampling.seeds)
    journal = Journal(output_dir / ".partial", processes.index)
    settings = {**identity, "image_path": str(Path(image_path).absolute()), **asdict(sampling)}
    if processes.is_first:
        _prepare(output_dir, settings, journal, option)
    processes.wait()
    todo = [index for index, name in enumerate(names) if not pictures.is_generated(name, paths[index])]
    processes.wait()  # nobody draws before everybody has looked, or the shares would differ
    if processes.is_first and len(todo) < len(names):
        print(f"{len(names) - len(todo)} of {len(names)} images are drawn already with these settings; kept")
    generate_pictures(autoencoder, source, todo, pictures, sampling, journal, processes, **reading)
    processes.wait()
    bad = {record["name"]: record["reason"] for record in journal.records("bad")}
    processes.wait()  # all have read before the journal may go
    if processes.is_first:
        if bad_samples is not None:
            report_bad_images(bad, len(names), bad_samples)
        if len(bad) == len(names):
            journal.remove()
    require_readable(bad, len(names), image_path)
    done = sorted(name for name in names if name not in bad)
    if processes.is_first:
        pictures.remove_others(done)
    return GeneratedSet(done, len(names) - len(todo), bad, pictures, journal, settings)


def _prepare(output_dir: Path, settings: dict[str, Any], journal: Journal, option: str) -> None:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        found = read_json(output_dir / _SETTINGS)
        if found != settings:
            _set_aside(output_dir, isinstance(found, dict) and settings.keys() <= found.keys(), option)
            write_json(output_dir / _SETTINGS, settings)
        if journal.folder.exists():
            journal.remove()
        journal.prepare(settings)
    except OSError as error:
        raise ValueError(f"{option}={output_dir} cannot be written ({error.strerror}): give another folder") from None


def _set_aside(output_dir: Path, is_ours: bool, option: str) -> None:
    old = [output_dir / name for name in (*_OURS, _SETTINGS) if (output_dir / name).exists()]
    if not old:
        return
    if not is_ours:
        raise ValueError(f"{option}={output_dir} holds {old[0].name} of something else: give another folder")
    place = unused_path(output_dir / "previous")
    place.mkdir()
    for path in old:
        path.rename(place / path.name)
    print(f"pictures of other settings were set aside in {place}")


def gallery_entry(pictures: PictureFolder, name: str, caption: str | None = None) -> GalleryEntry:
    """Describe an image's pictures for the gallery in their folder."""
    seeds = pictures.seeds
    labels = {seed: "reconstruction" if len(seeds) == 1 else f"seed {seed}" for seed in seeds}
    return GalleryEntry(
        name=name,
        pictures={
            "original": pictures.original(name).relative_to(pictures.folder).as_posix(),
            **{labels[s]: pictures.reconstruction(name, s).relative_to(pictures.folder).as_posix() for s in seeds},
        },
        caption=caption,
    )
