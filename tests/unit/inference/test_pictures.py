import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from PIL import Image

from vlv.evaluation.extractors import build_extractor
from vlv.inference.pictures import image_generator, picture_files
from vlv.inference.preview import generate_previews, write_previews
from vlv.inference.reconstruction import reconstruct_images

from .stand_ins import FakeDrawer, break_images, write_image

SETTINGS = {
    "seeds": [42],
    "guidance_scale": 2.0,
    "num_inference_steps": 3,
    "scheduler": "ddpm",
    "batch_size": 3,
    "num_workers": 0,
    "max_image_pixels": 10**6,
    "identity": {"checkpoint": "c", "precision": "fp32"},
}


def run(drawer, images, output, **changes):
    extractor = build_extractor("vision_tower", drawer, None, "cpu")
    return reconstruct_images(drawer, str(images), output, **{**SETTINGS, "extractor": extractor, **changes})


def run_together(count, images, output, **changes):
    barrier = Barrier(count, timeout=30)
    with ThreadPoolExecutor(count) as pool:
        runs = [
            pool.submit(
                run, FakeDrawer(), images, output,
                process_index=index, num_processes=count, wait=barrier.wait, **changes,
            )
            for index in range(count)
        ]  # fmt: skip
        return [one.result() for one in runs]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_noise_depends_on_seed_and_name_alone():
    def draw(seed, name):
        return torch.randn(4, generator=image_generator(seed, name)).tolist()

    assert draw(1, "a.jpg") == draw(1, "a.jpg")
    assert len({tuple(draw(seed, name)) for seed in (0, 1, 2**63) for name in ("a.jpg", "b/a.jpg", "ä.jpg")}) == 9
    # Fixed for good: pictures of an earlier version stay reproducible.
    assert image_generator(42, "sample1.jpg").initial_seed() == 1155346230031774801


def test_pictures_never_share_a_file():
    assert picture_files(["a.jpg", "dogs/a.jpg"]) == {"a.jpg": "a.png", "dogs/a.jpg": "dogs/a.png"}
    for names in (
        ["a.jpg", "a.png"],
        ["a.jpg", "a.png", "a.jpg.webp"],
        ["a.jpg", "A.jpg", "A.JPG"],
        ["a.b.jpg", "a.jpg"],
    ):
        files = picture_files(names)
        assert list(files) == names
        assert len({file.lower() for file in files.values()}) == len(names)


def test_pictures_comparisons_page_and_metrics(images, tmp_path):
    output = tmp_path / "out"
    report = run(FakeDrawer(), images, output)
    assert len(report.names) == 7
    pictures = contents(output)
    files = ["a.png.png", "a.bmp.png", "b.png", "c.png", "dogs/a.png", "e è&<x>.png", "z.png"]
    folders = ("originals", "reconstructions", "comparisons")
    assert set(pictures) == {f"{folder}/{file}" for folder in folders for file in files}
    original = Image.open(output / "originals" / "b.png")
    comparison = Image.open(output / "comparisons" / "b.png")
    assert comparison.size == (2 * 16 + 8, 16)
    assert comparison.crop((0, 0, 16, 16)).tobytes() == original.tobytes()
    assert comparison.crop((24, 0, 40, 16)).tobytes() == Image.open(output / "reconstructions" / "b.png").tobytes()
    metrics = json.loads((output / "metrics.json").read_text())
    (entry,) = metrics["seeds"]
    assert entry["seed"] == 42
    assert entry["n"] == 7
    assert entry["extractor"] == "vision_tower"
    assert {"fd_vision_tower", "kd_vision_tower", "resizer", "guidance_scale", "checkpoint"} <= entry.keys()
    assert not {"fid", "kid"} & entry.keys()
    assert "e%20%C3%A8%26%3Cx%3E.png" in (output / "index.html").read_text()
    assert not (output / ".partial").exists()


def test_batch_size_and_processes_change_nothing(images, tmp_path):
    break_images(images)
    one = run(FakeDrawer(), images, tmp_path / "one", seeds=[1, 2])
    run(FakeDrawer(), images, tmp_path / "small", seeds=[1, 2], batch_size=1, num_workers=1)
    many = run_together(3, images, tmp_path / "many", seeds=[1, 2])
    more = run_together(11, images, tmp_path / "more", seeds=[1, 2])
    assert contents(tmp_path / "one") == contents(tmp_path / "small")
    assert contents(tmp_path / "one") == contents(tmp_path / "many") == contents(tmp_path / "more")
    assert one.metrics == many[0].metrics == more[0].metrics
    assert (tmp_path / "one" / "reconstructions" / "seed_2" / "b.png").is_file()
    assert [entry["seed"] for entry in one.metrics["seeds"]] == [1, 2]
    first, second = (entry["fd_vision_tower"] for entry in one.metrics["seeds"])
    assert one.metrics["mean"]["fd_vision_tower"] == pytest.approx((first + second) / 2)
    assert one.metrics["std"]["fd_vision_tower"] == pytest.approx(abs(first - second) / 2**0.5)


def test_drawn_pictures_are_kept_and_changed_images_drawn_again(images, tmp_path):
    output = tmp_path / "out"
    run(FakeDrawer(), images, output)
    (output / "reconstructions" / "b.png").unlink()
    write_image(images / "c.png", 99)
    drawer = FakeDrawer()
    report = run(drawer, images, output)
    assert drawer.drawn == 2
    assert report.num_reused == 5
    run(FakeDrawer(), images, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_of_images_that_have_gone_are_removed(images, tmp_path, count):
    output = tmp_path / "out"
    run(FakeDrawer(), images, output)
    (images / "dogs" / "a.png").unlink()
    (images / "b.png").unlink()
    (images / "c.png").write_bytes(b"broken")
    (output / "originals" / "notes.txt").write_text("somebody's")
    run_together(count, images, output)
    run(FakeDrawer(), images, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")
    assert not (output / "originals" / "dogs").exists()
    assert (output / "originals" / "notes.txt").exists()


def test_pictures_of_other_settings_are_set_aside(images, tmp_path, capsys):
    output = tmp_path / "out"
    run(FakeDrawer(), images, output)
    drawer = FakeDrawer()
    run(drawer, images, output, guidance_scale=3.0)
    assert drawer.drawn == 7
    assert "set aside" in capsys.readouterr().out
    assert (output / "previous.1" / "reconstructions" / "b.png").is_file()
    assert json.loads((output / "settings.json").read_text())["guidance_scale"] == 3.0


def test_files_of_somebody_else_are_not_touched(images, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir=.*holds index\.html of something else"):
        run(FakeDrawer(), images, output)
    assert (output / "index.html").read_text() == "mine"


def test_pictures_below_the_image_path_are_no_input(images):
    for _ in range(2):
        assert len(run(FakeDrawer(), images, images / "out").names) == 7
    with pytest.raises(ValueError, match="lies in output_dir"):
        run(FakeDrawer(), images / "out" / "originals", images / "out")


def test_unreadable_images_are_named(images, tmp_path, capsys):
    broken = break_images(images)
    report = run(FakeDrawer(), images, tmp_path / "out")
    assert set(report.bad) == broken
    assert len((tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()) == 3
    assert "cut.png" in capsys.readouterr().out
    assert "3 unreadable and left out" in (tmp_path / "out" / "index.html").read_text()


def test_nothing_readable_is_an_error(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 1 images can be read"):
        run(FakeDrawer(), folder, tmp_path / "out")


def test_one_image_has_no_measure_and_says_so(images, tmp_path, capsys):
    report = run(FakeDrawer(), images / "b.png", tmp_path / "out")
    assert report.metrics["seeds"] == []
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {key: written[key] for key in ("n", "extractor", "seed", "guidance_scale", "scheduler", "checkpoint")} == {
        "n": 1, "extractor": "vision_tower", "seed": [42], "guidance_scale": 2.0, "scheduler": "ddpm",
        "checkpoint": "c",
    }  # fmt: skip
    assert "need at least 2" in capsys.readouterr().out
    assert "need at least 2" in (tmp_path / "out" / "index.html").read_text()


def test_an_output_that_cannot_be_written_is_named(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output_dir=.*cannot be written"):
        run(FakeDrawer(), images, tmp_path / "file" / "out")


def test_previews_show_captions(images, tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key not in ("seeds", "scheduler")}
    drawn = generate_previews(FakeDrawer(), str(images), tmp_path / "previews", seed=42, **settings)
    page = write_previews(drawn, {"b.png": "a <b>bold</b> caption"}).read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; caption" in page
    assert page.count("<article") == 7
    drawer = FakeDrawer()
    generate_previews(drawer, str(images), tmp_path / "previews", seed=42, **settings)
    assert drawer.drawn == 0
    assert drawn.names == sorted(drawn.names)
