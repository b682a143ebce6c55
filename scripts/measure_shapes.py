"""Measure captions or reconstructions of the embedded world's pictures, exactly.

PATH is a captions.json, or a folder of pictures. Names say which scene each should show (test-00000012.png).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

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
    options = parser.parse_args(arguments)
    try:
        measures = measure(options.path)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
        return
    width = max(map(len, measures))
    for name, value in measures.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    if options.json:
        options.json.write_text(json.dumps(measures, indent=2) + "\n")


def measure(path: Path) -> dict[str, float]:
    """Measures of a caption file or of a folder of pictures.

    Raises:
        ValueError: nothing to measure, or names that are not the embedded world's.
    """
    from PIL import Image

    from vlv.data.caption_file import read_captions
    from vlv.shapes.measures import measure_captions, measure_pictures
    from vlv.shapes.writing import named_scene

    if path.is_dir():
        files = sorted(path.glob("*.png"))
        if not files:
            raise ValueError(f"{path} holds no .png pictures")
        pictures = [Image.open(file).convert("RGB") for file in files]
        return measure_pictures(pictures, [named_scene(file.name) for file in files]).to_dict()
    captions = read_captions(str(path))
    if not captions:
        raise ValueError(f"{path} holds no captions")
    return measure_captions(list(captions.values()), [named_scene(name) for name in captions]).to_dict()


if __name__ == "__main__":
    main(sys.argv[1:])
