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

from scripts.entry import BAD_CALL, stop


def main(arguments: list[str] | None = None) -> None:
    """Read the call, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.measure_shapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures there too")
    parser.add_argument("--faults", action="store_true", help="count what is wrong, by kind, too")
    options = parser.parse_args(arguments)
    try:
        measures = measure(options.path)
        wrong = count_faults(options.path) if options.faults else {}
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
        return
    width = max(map(len, measures))
    for name, value in measures.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    for fault, count in wrong.items():
        print(f"{count:5}  {fault}")
    if options.json:
        options.json.write_text(json.dumps(measures, indent=2) + "\n")


def measure(path: Path) -> dict[str, float]:
    """Measures of a caption file or of a folder of pictures.

    Raises:
        ValueError: nothing to measure, or names that are not the embedded world's.
    """
    from vlv.shapes.measures import measure_captions, measure_pictures
    from vlv.shapes.writing import named_scene

    told = read(path)
    scenes = [named_scene(name) for name in told]
    return (measure_pictures if path.is_dir() else measure_captions)(list(told.values()), scenes).to_dict()


def read(path: Path) -> dict[str, Any]:
    """Pictures of a folder, or captions of a file, by name.

    Raises:
        ValueError: there are none.
    """
    from PIL import Image

    from vlv.data.caption_file import read_captions

    if path.is_dir():
        pictures = {file.name: Image.open(file).convert("RGB") for file in sorted(path.glob("*.png"))}
        if not pictures:
            raise ValueError(f"{path} holds no .png pictures")
        return pictures
    captions = read_captions(str(path))
    if not captions:
        raise ValueError(f"{path} holds no captions")
    return captions


def count_faults(path: Path) -> dict[str, int]:
    """How often each kind of fault occurs, the most frequent first; a caption that leaves anything open is one."""
    from vlv.shapes.measures import faults
    from vlv.shapes.oracle import read_description, read_pictures
    from vlv.shapes.writing import named_scene

    told = read(path)
    if path.is_dir():
        stated = [reading.scene for reading in read_pictures(list(told.values()))]
    else:
        stated = [read_description(caption).scene for caption in told.values()]
    kinds: Counter[str] = Counter()
    for name, scene in zip(told, stated, strict=True):
        kinds.update(["incomplete caption"] if scene is None else faults(scene, named_scene(name)))
    return dict(kinds.most_common())


if __name__ == "__main__":
    main(sys.argv[1:])
