"""Describe a dataset: files and shards, and of a probe of samples their resolution, formats, captions and what is bad.

Samples are read as training reads them, so that a bad one here is a bad one there; the speed is that of one loader
worker on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.config import InspectDataConfig
from vlv.redaction import printable


def main(arguments: list[str]) -> None:
    """Read the call, look, and print or write what was found."""
    config = parse(InspectDataConfig, Call("vlv data inspect", __doc__ or "", ("source",)), arguments)
    try:
        _inspect(config)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def _inspect(config: InspectDataConfig) -> None:
    from vlv.atomic import write_whole
    from vlv.datatools.inspection import inspection
    from vlv.datatools.inspection_page import write_inspection
    from vlv.datatools.inspection_text import terminal_lines
    from vlv.datatools.opening import open_dataset
    from vlv.datatools.probe import Prober, probe_indices
    from vlv.progress import Progress

    opened = open_dataset(config.source, config, config.captions)
    load_libraries()
    from vlv.models.image_processor import VLVImageProcessor

    count = _token_counter(config.tokenizer) if opened.captions and config.tokenizer is not None else None
    process = VLVImageProcessor(config.decoder_resolution, config.encoder_resolution)
    prober = Prober(
        opened.source, config.decode_settings(), process, count, opened.captions, pictures=config.html is not None
    )
    indices = probe_indices(opened.source.shard_sizes, opened.kind, config.probe)
    progress = Progress("looking", len(indices))
    probe = prober.look(indices, progress.advance)
    progress.close()
    found = inspection(opened, probe, config)
    print("\n".join(map(printable, terminal_lines(found))))
    if config.json is not None:
        text = json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n"
        write_whole(Path(config.json), text.encode("utf-8", "backslashreplace"))
    if config.html is not None:
        write_inspection(Path(config.html), found, probe.shown)


def _token_counter(folder: str) -> Callable[[str], int]:
    """Count as stage 2 counts, without the end token."""
    from vlv.checkpoints.pretrained import load_tokenizer
    from vlv.data.captions import CaptionTokenizer

    no_limit = 2**62
    tokenize = CaptionTokenizer(load_tokenizer(Path(folder), "tokenizer"), no_limit, False, 0)
    return lambda caption: len(tokenize(caption))
