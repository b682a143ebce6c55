"""Write the pictures of the docs again from the models in assets/tiny/trained: pictures.png and composition.png.

The first held-out scenes are shown, whatever comes out. A picture's noise depends on its name or number alone, so these
are the pictures that scripts/reproduce_tiny.sh measures among 1,000.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.small_world.composition import SHOWN as SHOWN_PAIRS
from scripts.small_world.composition import CompositionConfig, compose
from scripts.small_world.evaluate import FULL_SAMPLING
from scripts.small_world.keep import DOCS, SHOWN, keep_picture
from vlv.cli.entry import FAILED_RUN, Call, load_libraries, parse, stop
from vlv.settings import option
from vlv.shapes.runs import TRAINED, RunError, caption, make_data, reconstruct


@dataclass(frozen=True)
class PicturesConfig:
    """Where what is made on the way goes."""

    out: str = option("./outputs/docs_pictures", "folder of data, captions and reconstructions", path="local")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and write both pictures."""
    call = Call("python -m scripts.small_world.pictures", __doc__ or "")
    config = parse(PicturesConfig, call, sys.argv[1:] if arguments is None else arguments)
    load_libraries()
    out = Path(config.out).resolve()
    try:
        measured = out / "measured"
        data = make_data(out / "data", pairs=0, test=len(SHOWN))
        caption(TRAINED / "captioner", data.test, measured / "captions.json")
        reconstruct(
            TRAINED / "stage1",
            data.test,
            measured / "pictures",
            {**FULL_SAMPLING.settings, "extractor": "vision_tower"},
        )
    except RunError as error:
        stop(str(error), FAILED_RUN)
    keep_picture(out, measured, DOCS / "pictures.png")
    compose(CompositionConfig(str(TRAINED / "stage1"), out=str(out), count=SHOWN_PAIRS))
    shutil.copy(out / "composition.png", DOCS / "composition.png")


if __name__ == "__main__":
    main()
