"""A set of images reconstructed from their embeddings by several processes, compared and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from vlv.atomic import remove_leftovers
from vlv.evaluation.extractors import FeatureExtractor
from vlv.inference.gallery import GalleryEntry, write_gallery
from vlv.inference.images import ReadSettings, find_inputs, report_bad_images, require_readable
from vlv.inference.journal import Journal, JsonObject, read_json, unused_path, write_json
from vlv.inference.measures import Metrics, measure_pictures
from vlv.inference.pictures import PICTURE_FOLDERS, ImageGenerator, PictureFolder, SamplingSettings, generate_pictures
from vlv.inference.processes import ALONE, Processes

# What a run writes; of a run with other settings it is set aside.
_OURS = (*PICTURE_FOLDERS, "index.html", "metrics.json", "bad_samples.jsonl")
SETTINGS = "settings.json"
_ALWAYS_KEPT = {"image_path", *(field.name for field in fields(SamplingSettings))}


@dataclass(frozen=True)
class ReconstructionReport:
    """What came of a run: names of the reconstructed images, how many an earlier run had made, bad images.

    `metrics` is what metrics.json holds, on the first process; elsewhere it is empty.
    """

    names: list[str]
    num_reused: int
    bad: dict[str, str]
    metrics: Metrics


def reconstruct_images(
    autoencoder: ImageGenerator,
    image_path: str,
    output_dir: Path,
    sampling: SamplingSettings,
    reading: ReadSettings,
    identity: JsonObject,
    extractor: FeatureExtractor | None = None,
    processes: Processes = ALONE,
) -> ReconstructionReport:
    """Reconstruct a file, folder or glob from each seed, and write pictures, index.html and metrics.json.

    Pictures that a run of the same settings made of the same files are kept. Those of other settings are
    moved into a sub-folder `previous.1`. Every process of the run calls this.

    Args:
        identity: what decides a picture beside `sampling`: the checkpoint, the precision.
        extractor: features that the distances are taken over; None measures nothing.

    Raises:
        ValueError: no images there, none of them readable, or an output that cannot be written.
    """
    # Each seed once: the same pictures twice would make the spread over seeds too small.
    sampling = replace(sampling, seeds=sorted(set(sampling.seeds), key=sampling.seeds.index))
    output = OutputFolder(output_dir, "output_dir", output_dir / "bad_samples.jsonl")
    made = generate_image_set(autoencoder, image_path, output, sampling, reading, identity, processes)
    metrics: Metrics = {}
    if extractor is not None:
        metrics = measure_pictures(
            made.pictures, made.names, extractor, made.journal, made.settings, reading, processes
        )
    if processes.is_first:
        if extractor is not None:
            write_json(output_dir / "metrics.json", metrics)
        entries = [gallery_entry(made.pictures, name) for name in made.names]
        write_gallery(output_dir / "index.html", "Reconstructions", made.settings, entries, metrics, len(made.bad))
        made.journal.remove()
    processes.wait()
    return ReconstructionReport(made.names, made.num_reused, made.bad, metrics)


@dataclass(frozen=True)
class OutputFolder:
    """Where pictures go.

    path: the folder.
    option: the setting that gave it, for messages.
    bad_samples: the file that unreadable images are written to; None where another step names them.
    """

    path: Path
    option: str
    bad_samples: Path | None = None


@dataclass(frozen=True)
class GeneratedSet:
    """Images whose pictures are all there.

    names: sorted. num_reused: how many an earlier run had made. bad: reasons of the unreadable ones by name.
    settings: what the pictures depend on.
    """

    names: list[str]
    num_reused: int
    bad: dict[str, str]
    pictures: PictureFolder
    journal: Journal
    settings: JsonObject


def generate_image_set(
    autoencoder: ImageGenerator,
    image_path: str,
    output: OutputFolder,
    sampling: SamplingSettings,
    reading: ReadSettings,
    identity: JsonObject,
    processes: Processes,
) -> GeneratedSet:
    """Generate what is not there yet, by all processes, and wait for them.

    Args:
        identity: what decides a picture beside `sampling`.

    Raises:
        ValueError: no images there, none of them readable, or an output that cannot be written.
    """
    source, names, paths, _ = find_inputs(image_path, output.path, output.option)
    pictures = PictureFolder(output.path, names, sampling.seeds)
    settings = {**identity, "image_path": str(Path(image_path).absolute()), **asdict(sampling)}
    journal = Journal(output.path / ".partial", processes.index, settings)
    if processes.is_first:
        _prepare(output, settings, journal)
    processes.wait()
    todo = [index for index, name in enumerate(names) if not pictures.is_generated(name, paths[index])]
    processes.wait()  # nobody generates before everybody has looked, or the shares would differ
    if processes.is_first and len(todo) < len(names):
        print(f"{len(names) - len(todo)} of {len(names)} images are generated already with these settings; kept")
    generate_pictures(autoencoder, source, todo, pictures, sampling, reading, journal, processes)
    processes.wait()
    bad = {record["name"]: record["reason"] for record in journal.records("bad")}
    processes.wait()  # all have read before the journal may go
    if processes.is_first:
        _report_bad(bad, len(names), output, journal)
    require_readable(bad, len(names), image_path)
    done = sorted(name for name in names if name not in bad)
    if processes.is_first:
        pictures.remove_others(done)
    return GeneratedSet(done, len(names) - len(todo), bad, pictures, journal, settings)


def _report_bad(bad: dict[str, str], total: int, output: OutputFolder, journal: Journal) -> None:
    if output.bad_samples is not None:
        report_bad_images(bad, total, output.bad_samples)
    if len(bad) == total:
        journal.remove()


def _prepare(output: OutputFolder, settings: JsonObject, journal: Journal) -> None:
    try:
        output.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output.path)
        for name in PICTURE_FOLDERS:
            remove_leftovers(output.path / name, recursive=True)
        found = read_json(output.path / SETTINGS)
        if found != settings:
            # Not all of the keys: which ones the checkpoint's identity has depends on the options in use.
            _set_aside(output, isinstance(found, dict) and found.keys() >= _ALWAYS_KEPT)
            write_json(output.path / SETTINGS, settings)
        # Bad images of an interrupted run are tried again: a file may have been repaired.
        if journal.folder.exists():
            journal.remove()
        journal.prepare()
    except OSError as error:
        raise ValueError(
            f"{output.option}={output.path} cannot be written ({error.strerror}): give another folder"
        ) from None


def _set_aside(output: OutputFolder, is_ours: bool) -> None:
    old = [output.path / name for name in (*_OURS, SETTINGS) if (output.path / name).exists()]
    if not old:
        return
    if not is_ours:
        raise ValueError(f"{output.option}={output.path} holds {old[0].name} of something else: give another folder")
    place = unused_path(output.path / "previous")
    place.mkdir()
    for path in old:
        path.rename(place / path.name)
    print(f"pictures of other settings were set aside in {place}")


def gallery_entry(pictures: PictureFolder, name: str, caption: str | None = None) -> GalleryEntry:
    """Describe an image's pictures for the gallery in their folder."""
    panels = {label: path.relative_to(pictures.folder).as_posix() for label, path in pictures.panels(name).items()}
    return GalleryEntry(name, panels, caption)
