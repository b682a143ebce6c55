"""What a captioner saw: each image reconstructed from its embeddings, beside the original and its caption."""

from __future__ import annotations

from pathlib import Path

from vlv.inference.gallery import write_gallery
from vlv.inference.images import ReadSettings
from vlv.inference.journal import JsonObject
from vlv.inference.pictures import ImageGenerator, SamplingSettings, write_caption_below
from vlv.inference.processes import ALONE, Processes
from vlv.inference.reconstruction import GeneratedSet, OutputFolder, gallery_entry, generate_image_set


def generate_previews(
    autoencoder: ImageGenerator,
    image_path: str,
    preview_dir: Path,
    sampling: SamplingSettings,
    reading: ReadSettings,
    identity: JsonObject,
    processes: Processes = ALONE,
) -> GeneratedSet:
    """Reconstruct the images of a file, folder or glob into `preview_dir`; what is there already stays.

    It comes before captioning: an interruption then costs neither pictures nor captions. Every process of
    the run calls this.

    Args:
        identity: what decides a picture beside `sampling`: the checkpoint, the precision.

    Raises:
        ValueError: no images there, none of them readable, or a folder that cannot be written.
    """
    output = OutputFolder(preview_dir, "preview_dir")  # captioning names the unreadable images
    generated = generate_image_set(autoencoder, image_path, output, sampling, reading, identity, processes)
    if processes.is_first:
        generated.journal.remove()
    return generated


def write_previews(
    generated: GeneratedSet,
    captions: dict[str, str],
    processes: Processes = ALONE,
) -> Path:
    """Write the captions below the comparisons, and the page of all images; every process calls this.

    Args:
        captions: by relative name.

    Returns:
        The page's path.
    """
    pictures = generated.pictures
    for name in processes.share([name for name in generated.names if name in captions]):
        write_caption_below(pictures, name, captions[name])
    page = pictures.folder / "index.html"
    if processes.is_first:
        entries = [gallery_entry(pictures, name, captions.get(name)) for name in generated.names]
        write_gallery(page, "Captions and previews", generated.settings, entries, num_bad=len(generated.bad))
    processes.wait()
    return page
