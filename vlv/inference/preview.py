"""What a captioner saw: each image drawn back from its embeddings, beside the original and its caption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlv.inference.gallery import write_gallery
from vlv.inference.pictures import ImageGenerator, Sampling
from vlv.inference.processes import Processes
from vlv.inference.reconstruction import GeneratedSet, gallery_entry, generate_image_set


def generate_previews(
    autoencoder: ImageGenerator,
    image_path: str,
    preview_dir: Path,
    *,
    seed: int,
    guidance_scale: float,
    num_inference_steps: int,
    batch_size: int,
    num_workers: int,
    max_image_pixels: int,
    scheduler: str = "auto",
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] = lambda: None,
    identity: dict[str, Any],
) -> GeneratedSet:
    """Draw the images of a file, folder or glob into `preview_dir`; what is drawn already stays.

    It comes before captioning: an interruption then costs neither pictures nor captions. Every process of
    the run calls this.

    Args:
        identity: what decides a picture beside this call's own arguments: the checkpoint, the precision.

    Raises:
        ValueError: no images there, none of them readable, or a folder that cannot be written.
    """
    processes = Processes(process_index, num_processes, wait)
    sampling = Sampling([seed], guidance_scale, num_inference_steps, scheduler)
    reading = {"batch_size": batch_size, "num_workers": num_workers, "max_image_pixels": max_image_pixels}
    drawn = generate_image_set(
        autoencoder, image_path, preview_dir, sampling, reading, processes, identity, "preview_dir"
    )
    if processes.is_first:
        drawn.journal.remove()
    return drawn


def write_previews(drawn: GeneratedSet, captions: dict[str, str]) -> Path:
    """Write the page of originals, reconstructions and captions (by relative name); returns its path."""
    page = drawn.pictures.folder / "index.html"
    entries = [gallery_entry(drawn.pictures, name, captions.get(name)) for name in drawn.names]
    write_gallery(page, "Captions and previews", drawn.settings, entries, num_bad=len(drawn.bad))
    return page
