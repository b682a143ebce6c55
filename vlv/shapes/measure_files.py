"""Measure captions or reconstructions of the embedded world's pictures, exactly.

PATH is a captions.json, or a folder of pictures. Names say which scene each should show (test-00000012.png).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from vlv.cli.entry import BAD_CALL, stop


def main(arguments: list[str] | None = None) -> None:
    """Read the call, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m vlv.shapes.measure_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures there too")
    parser.add_argument("--faults", action="store_true", help="count what is wrong, by kind, too")
    options = parser.parse_args(arguments)
    try:
        told = read(options.path)
        measures = measures_of(told)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
        return
    width = max(map(len, measures))
    for name, value in measures.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    for fault, count in (count_faults(told) if options.faults else {}).items():
        print(f"{count:5}  {fault}")
    if options.json:
        options.json.write_text(json.dumps(measures, indent=2) + "\n")


def measure(path: Path) -> dict[str, float]:
    """Measures of a caption file or of a folder of pictures; errors as `read` has them."""
    return measures_of(read(path))


def read(path: Path) -> dict[str, Any]:
    """What the oracle reads in a folder's pictures (`Scene`) or a file's captions (`Description`), by name.

    Raises:
        ValueError: there are none.
    """
    from PIL import Image

    from vlv.data.caption_file import read_captions
    from vlv.shapes.oracle import read_description, read_pictures

    if path.is_dir():
        pictures = {file.name: Image.open(file).convert("RGB") for file in sorted(path.glob("*.png"))}
        if not pictures:
            raise ValueError(f"{path} holds no .png pictures")
        readings = read_pictures(list(pictures.values()))
        return {name: reading.scene for name, reading in zip(pictures, readings, strict=True)}
    captions = read_captions(str(path))
    if not captions:
        raise ValueError(f"{path} holds no captions")
    return {name: read_description(caption) for name, caption in captions.items()}


def measures_of(told: dict[str, Any]) -> dict[str, float]:
    """Measures of what was read.

    Raises:
        ValueError: names that are not the embedded world's.
    """
    from vlv.shapes.measures import measure_descriptions, measure_scenes
    from vlv.shapes.oracle import Description
    from vlv.shapes.writing import named_scene

    stated = list(told.values())
    measures = measure_descriptions if isinstance(stated[0], Description) else measure_scenes
    return measures(stated, [named_scene(name) for name in told]).to_dict()


def count_faults(told: dict[str, Any]) -> dict[str, int]:
    """How often each kind of fault occurs, the most frequent first; a caption that leaves anything open is one."""
    from vlv.shapes.measures import faults
    from vlv.shapes.oracle import Description
    from vlv.shapes.writing import named_scene

    kinds: Counter[str] = Counter()
    for name, stated in told.items():
        scene = stated.scene if isinstance(stated, Description) else stated
        kinds.update(["incomplete caption"] if scene is None else faults(scene, named_scene(name)))
    return dict(kinds.most_common())


if __name__ == "__main__":
    main(sys.argv[1:])
