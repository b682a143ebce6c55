"""Draw the default validation set: eight pictures and their captions.

Both are our own, and the pictures come out the same each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import option

if TYPE_CHECKING:
    import numpy as np

    from scripts.sample_pictures.canvas import Canvas

SEED = 7
JPEG_SETTINGS = {"format": "JPEG", "quality": 90, "subsampling": 0, "optimize": True}
CAPTIONS = {
    "city_at_night.jpg": (
        "A city skyline at night, with hundreds of lit windows in tall, dark blue buildings under a full moon. A "
        "stepped tower with a pointed roof and a red light on its mast is the tallest; the moon hangs to the right "
        "of it in a starry sky. A row of small lamps lines the waterfront, and the lights are mirrored as broken "
        "streaks in the dark water below."
    ),
    "desert_cacti.jpg": (
        "Three green cacti with raised arms stand among orange sand dunes in a desert, the largest in the left "
        "foreground and the smallest far off on the right. A bright white sun shines in a clear blue sky above "
        "three flat-topped mesas on the horizon. Five brown rocks lie on the sand in front."
    ),
    "forest_path.jpg": (
        "A sandy path strewn with pebbles leads into a green forest towards a bright, misty glow. Tall brown tree "
        "trunks stand on both sides, with paler trunks fading into the haze behind them. Dense green leaves arch "
        "over the top of the picture, and green tufts grow in the grass beside the path."
    ),
    "fruit_still_life.jpg": (
        "A still life on a wooden table before a grey-green wall. A blue jug with a handle and a white band of blue "
        "dots stands at the left behind two red apples with green leaves. To the right of it are a yellow-green "
        "pear, two oranges and a bunch of purple grapes."
    ),
    "mountain_lake.jpg": (
        "A still mountain lake at dusk, under a sky that turns from orange at the horizon to dark blue with stars. "
        "Purple mountains with snow on their tops are mirrored in the water, and the glow between them lays a "
        "broken path of light across the lake. Black silhouettes of fir trees stand on the near shore, five on the "
        "left and two on the right."
    ),
    "red_house.jpg": (
        "A small red wooden house with a grey roof, white trim and a dark green door stands in a green meadow on a "
        "sunny day. White smoke rises from its red-brown chimney into a blue sky with three white clouds. A path "
        "leads to the door between colourful flowers and two pieces of white picket fence, and a round leafy tree "
        "grows to the right of the house."
    ),
    "sailing_boat.jpg": (
        "A sailing boat with two white sails and a red pennant glides over a blue sea. Its hull is dark blue with a "
        "white stripe at the top and red at the waterline. Behind it on the right, a red and white lighthouse "
        "stands on a green headland; three white clouds and three gulls are in the sky."
    ),
    "snowy_village.jpg": (
        "Snow falls on a small village in the evening. Four small houses with snow-covered roofs and glowing yellow "
        "windows stand beside a pale church, two on each side; the church has a pointed steeple above a round white "
        "clock. Two snowy fir trees frame the picture at either edge, a track winds through the snow in front, and "
        "pale mountains rise behind a dark row of trees."
    ),
}


@dataclass(frozen=True)
class PicturesConfig:
    """Where the pictures go."""

    out: str = option("./assets", "folder of the pictures and captions.json", path="local")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call, draw and save."""
    call = Call("python -m scripts.sample_pictures.make", __doc__ or "", positional=("out",))
    out = Path(parse(PicturesConfig, call, sys.argv[1:] if arguments is None else arguments).out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in CAPTIONS:
            draw(name).finish().save(out / name, **JPEG_SETTINGS)
            print(out / name)
        (out / "captions.json").write_text(json.dumps(CAPTIONS, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        stop(f"{out} cannot be written: {error.strerror or error}", BAD_CALL)


def draw(name: str) -> Canvas:
    """Draw one picture of the set by its file name."""
    import numpy as np

    from scripts.sample_pictures import city, forest, houses, lake_and_desert, seaside, still_life

    painters: dict[str, Callable[[np.random.Generator], Canvas]] = {
        "city_at_night.jpg": city.draw_city,
        "desert_cacti.jpg": lake_and_desert.draw_desert,
        "forest_path.jpg": forest.draw_forest,
        "fruit_still_life.jpg": still_life.draw_still_life,
        "mountain_lake.jpg": lake_and_desert.draw_lake,
        "red_house.jpg": houses.draw_red_house,
        "sailing_boat.jpg": seaside.draw_boat,
        "snowy_village.jpg": houses.draw_village,
    }
    return painters[name](np.random.default_rng(SEED))


if __name__ == "__main__":
    main()
