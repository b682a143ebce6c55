"""Compositions: which pictures fit together, and what counts as holding both."""

from types import SimpleNamespace

import torch
from PIL import Image

from scripts.small_world.composition import (
    by_region,
    composable_pairs,
    first_rows,
    generate_compositions,
    measure_compositions,
)
from vlv.shapes.render import render
from vlv.shapes.scene import Item, Scene, make_scene

LEFT = Scene((Item(0, 0, "large", "solid", "red", "circle"),), "white")
RIGHT = Scene((Item(0, 2, "large", "solid", "blue", "square"),), "white")


def test_pairs_share_a_background_and_no_place_and_no_scene_is_used_twice():
    scenes = [make_scene("test", number) for number in range(400)]
    pairs = composable_pairs(scenes, 50)
    assert len(pairs) == 50
    assert len({number for pair in pairs for number in pair}) == 100
    for first, second in pairs:
        places = [{(item.row, item.column) for item in scenes[number].items} for number in (first, second)]
        assert not places[0] & places[1]
        assert scenes[first].background == scenes[second].background
        assert max(len(scenes[first].items), len(scenes[second].items)) <= 2


def test_both_are_counted_only_where_the_picture_holds_both():
    whole = render(Scene(LEFT.items + RIGHT.items, "white"), 0)
    pictures = [whole, render(LEFT, 0), Image.new("RGB", (64, 64), "white")]
    measures = measure_compositions(pictures, [(LEFT, RIGHT)] * 3)
    assert measures == {"recall_first": 2 / 3, "recall_second": 1 / 3, "both": 1 / 3, "count": 3}


def test_the_first_rows_of_both_are_joined():
    given = []

    def generate(conditioning, **_):
        given.append(conditioning)
        return torch.zeros(len(conditioning["clip"]), 3, 8, 8, dtype=torch.uint8)

    model = SimpleNamespace(
        image_processor=SimpleNamespace(batch=lambda pictures: {"encoder_pixels": pictures}),
        encoder=lambda pictures: {"clip": torch.tensor(pictures)[:, None, None] + torch.arange(6)[None, :, None]},
        decoder=SimpleNamespace(conditioner=lambda joined: joined, generate_images=generate),
    )
    pictures = generate_compositions(model, [100, 200], [300, 400], first_rows(2), steps=1)
    assert len(pictures) == 2
    assert given[0]["clip"].squeeze(-1).tolist() == [[100, 101, 300, 301], [200, 201, 400, 401]]


def test_a_region_that_holds_a_shape_of_the_second_is_taken_from_it():
    first, second = torch.zeros(1, 10, 1), torch.ones(1, 10, 1)
    assert by_region([(LEFT, RIGHT)])(first, second).flatten().tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
