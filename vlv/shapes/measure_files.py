"""Measure captions or reconstructions of the small world's pictures, exactly.

PATH is a captions.json, or a folder of pictures. Names identify the scene that each should show (test-00000012.png).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import option, require

if TYPE_CHECKING:
    from vlv.shapes.measures import Score
    from vlv.shapes.text_oracle import Description


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured, and where the measures go."""

    path: str = option("", "a captions.json, or a folder of .png pictures", path="local")
    json: str | None = option(None, "write the measures to this file too", path="local")
    faults: bool = option(False, "count what is wrong, each fault by its name, too")

    def __post_init__(self) -> None:
        require(bool(self.path), "path", self.path, "give a captions.json, or a folder of pictures")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call, measure, print."""
    call = Call("python -m vlv.shapes.measure_files", __doc__ or "", positional=("path",))
    config = parse(MeasureConfig, call, sys.argv[1:] if arguments is None else arguments)
    try:
        descriptions = read(Path(config.path))
        scores = score(descriptions)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    from vlv.shapes.measures import confidence_intervals, summarise

    measures, intervals = summarise(scores).to_dict(), confidence_intervals(scores)
    width = max(map(len, measures))
    for name, value in measures.items():
        number = f"{value:.4f}" if isinstance(value, float) else str(value)
        interval = "  (95 % interval {:.4f} to {:.4f})".format(*intervals[name]) if name in intervals else ""
        print(f"{name:<{width}}  {number}{interval}")
    for fault, count in (count_faults(scores) if config.faults else {}).items():
        print(f"{count:5}  {fault}")
    if config.json:
        Path(config.json).write_text(json.dumps(measures, indent=2) + "\n")


def measure(path: Path) -> dict[str, float]:
    """Measures of a caption file or of a folder of pictures; errors as `read` and `score` have them."""
    from vlv.shapes.measures import summarise

    return summarise(score(read(path))).to_dict()


def read(path: Path) -> dict[str, Description]:
    """What the oracle reads in a folder's pictures or a file's captions, by name.

    Raises:
        ValueError: there are none, or no such path.
    """
    from PIL import Image

    from vlv.data.caption_file import read_captions
    from vlv.shapes.measures import describe_pictures
    from vlv.shapes.text_oracle import read_description

    if path.is_dir():
        pictures = {file.name: Image.open(file).convert("RGB") for file in sorted(path.glob("*.png"))}
        if not pictures:
            raise ValueError(f"{path} holds no .png pictures")
        return dict(zip(pictures, describe_pictures(list(pictures.values())), strict=True))
    if not path.is_file():
        raise ValueError(f"path={path} does not exist: give a captions.json, or a folder of pictures")
    captions = read_captions(str(path))
    if not captions:
        raise ValueError(f"{path} holds no captions")
    return {name: read_description(caption) for name, caption in captions.items()}


def score(descriptions: Mapping[str, Description]) -> list[Score]:
    """Scores of what was read, one a scene.

    Raises:
        ValueError: names that are not the small world's.
    """
    from vlv.shapes.measures import score_descriptions
    from vlv.shapes.writing import named_scene

    return score_descriptions(list(descriptions.values()), [named_scene(name) for name in descriptions])


def count_faults(scores: Iterable[Score]) -> dict[str, int]:
    """How often each fault occurs, the most frequent first."""
    return dict(Counter(fault for score in scores for fault in score.faults).most_common())


if __name__ == "__main__":
    main()
