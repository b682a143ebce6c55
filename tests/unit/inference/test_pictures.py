import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from PIL import Image

from vlv.data.formats import DecodeSettings
from vlv.evaluation import measures
from vlv.evaluation.extractors import build_extractor
from vlv.inference.comparison import GAP, LABEL_HEIGHT
from vlv.inference.images import ReadSettings
from vlv.inference.pictures import SamplingSettings, image_generator, picture_files
from vlv.inference.preview import generate_previews, write_previews
from vlv.inference.processes import Processes
from vlv.inference.reconstruction import reconstruct_images

from .stand_ins import FakeGenerator, break_images, write_image

SAMPLING = SamplingSettings([42], 2.0, 3, "ddpm")
SETTINGS = {
    "sampling": SAMPLING,
    "reading": ReadSettings(batch_size=3, decoding=DecodeSettings(max_image_mib=12)),
    "identity": {"checkpoint": "c", "precision": "fp32"},
}


def run(generator, images, output, **changes):
    extractor = build_extractor("vision_tower", generator, None, "cpu")
    return reconstruct_images(generator, str(images), output, **{**SETTINGS, "extractor": extractor, **changes})


def run_together(count, images, output, **changes):
    barrier = Barrier(count, timeout=30)
    with ThreadPoolExecutor(count) as pool:
        runs = [
            pool.submit(
                run, FakeGenerator(), images, output,
                processes=Processes(index, count, barrier.wait), **changes,
            )
            for index in range(count)
        ]  # fmt: skip
        return [one.result() for one in runs]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_noise_depends_on_seed_and_name_alone():
    def sample(seed, name):
        return torch.randn(4, generator=image_generator(seed, name)).tolist()

    assert sample(1, "a.jpg") == sample(1, "a.jpg")
    assert len({tuple(sample(seed, name)) for seed in (0, 1, 2**63) for name in ("a.jpg", "b/a.jpg", "ä.jpg")}) == 9
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


def test_a_name_too_long_for_a_file_is_shortened(tmp_path):
    long = "dogs/" + "é" * 125
    names = [f"{long}.jpg", f"{long}.JPG", f"{long}.webp"]
    files = picture_files(names)
    assert len(set(files.values())) == 3
    for name, file in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        (tmp_path / file).write_bytes(b"")
        assert file.startswith("dogs/éé")


def test_pictures_comparisons_page_and_metrics(images, tmp_path):
    output = tmp_path / "out"
    report = run(FakeGenerator(), images, output)
    assert len(report.names) == 7
    pictures = contents(output)
    files = ["a.png.png", "a.bmp.png", "b.png", "c.png", "dogs/a.png", "e è&<x>.png", "z.png"]
    folders = ("originals", "reconstructions", "comparisons")
    assert set(pictures) == {f"{folder}/{file}" for folder in folders for file in files}
    original = Image.open(output / "originals" / "b.png")
    comparison = Image.open(output / "comparisons" / "b.png")
    assert comparison.size == (2 * 256 + GAP, LABEL_HEIGHT + 256)  # 16 pixels, 16 times
    reconstruction = Image.open(output / "reconstructions" / "b.png")
    for left, picture in ((0, original), (256 + GAP, reconstruction)):
        panel = comparison.crop((left, LABEL_HEIGHT, left + 256, LABEL_HEIGHT + 256))
        assert panel.resize((16, 16), Image.Resampling.NEAREST).tobytes() == picture.tobytes()
        label = comparison.crop((left, 0, left + 256, LABEL_HEIGHT)).convert("L")
        assert label.getextrema()[0] < 128 < label.getextrema()[1]  # dark letters on white
    metrics = json.loads((output / "metrics.json").read_text())
    (entry,) = metrics["seeds"]
    assert entry["seed"] == 42
    assert entry["n"] == 7
    assert entry["extractor"] == "vision_tower"
    assert {
        "fd_vision_tower",
        "kd_paired_vision_tower",
        "psnr",
        "ssim",
        "resizer",
        "guidance_scale",
        "checkpoint",
    } <= entry.keys()
    assert not {"fid", "kid", "kid_paired", "kd_vision_tower"} & entry.keys()
    assert metrics["measures"].keys() <= entry.keys()
    assert metrics["measures"]["psnr"]["better"] == "higher"
    assert "e%20%C3%A8%26%3Cx%3E.png" in (output / "index.html").read_text()
    assert not (output / ".partial").exists()


def test_batch_size_and_processes_change_nothing(images, tmp_path):
    break_images(images)
    one = run(FakeGenerator(), images, tmp_path / "one", sampling=replace(SAMPLING, seeds=[1, 2]))
    run(
        FakeGenerator(),
        images,
        tmp_path / "small",
        sampling=replace(SAMPLING, seeds=[1, 2]),
        reading=ReadSettings(1, 1),
    )
    many = run_together(3, images, tmp_path / "many", sampling=replace(SAMPLING, seeds=[1, 2]))
    more = run_together(11, images, tmp_path / "more", sampling=replace(SAMPLING, seeds=[1, 2]))
    assert contents(tmp_path / "one") == contents(tmp_path / "small")
    assert contents(tmp_path / "one") == contents(tmp_path / "many") == contents(tmp_path / "more")
    assert one.metrics == many[0].metrics == more[0].metrics
    assert (tmp_path / "one" / "reconstructions" / "seed_2" / "b.png").is_file()
    assert [entry["seed"] for entry in one.metrics["seeds"]] == [1, 2]
    first, second = (entry["fd_vision_tower"] for entry in one.metrics["seeds"])
    assert one.metrics["mean"]["fd_vision_tower"] == pytest.approx((first + second) / 2)
    assert one.metrics["std"]["fd_vision_tower"] == pytest.approx(abs(first - second) / 2**0.5)


def test_pictures_are_kept_and_those_of_changed_images_generated_again(images, tmp_path):
    output = tmp_path / "out"
    run(FakeGenerator(), images, output)
    (output / "reconstructions" / "b.png").unlink()
    write_image(images / "c.png", 99)
    generator = FakeGenerator()
    report = run(generator, images, output)
    assert generator.generated == 2
    assert report.num_reused == 5
    run(FakeGenerator(), images, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_of_images_that_have_gone_are_removed(images, tmp_path, count):
    output = tmp_path / "out"
    run(FakeGenerator(), images, output)
    (images / "dogs" / "a.png").unlink()
    (images / "b.png").unlink()
    (images / "c.png").write_bytes(b"broken")
    (output / "originals" / "notes.txt").write_text("somebody's")
    run_together(count, images, output)
    run(FakeGenerator(), images, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")
    assert not (output / "originals" / "dogs").exists()
    assert (output / "originals" / "notes.txt").exists()


def test_pictures_of_other_settings_are_set_aside(images, tmp_path, capsys):
    output = tmp_path / "out"
    run(FakeGenerator(), images, output)
    generator = FakeGenerator()
    run(generator, images, output, sampling=replace(SAMPLING, guidance_scale=3.0))
    assert generator.generated == 7
    assert "set aside" in capsys.readouterr().out
    assert (output / "previous.1" / "reconstructions" / "b.png").is_file()
    assert json.loads((output / "settings.json").read_text())["guidance_scale"] == 3.0


def test_pictures_from_before_an_option_was_there_are_set_aside(images, tmp_path, capsys):
    """The checkpoint's identity has a key for an option only where the option is in use."""
    output = tmp_path / "out"
    run(FakeGenerator(), images, output)
    run(FakeGenerator(), images, output, identity={**SETTINGS["identity"], "t5_dtype": "bf16"})
    assert "set aside" in capsys.readouterr().out
    assert (output / "previous.1" / "settings.json").is_file()


def test_files_of_somebody_else_are_not_touched(images, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir=.*holds index\.html of something else"):
        run(FakeGenerator(), images, output)
    assert (output / "index.html").read_text() == "mine"


def test_pictures_below_the_image_path_are_no_input(images):
    for _ in range(2):
        assert len(run(FakeGenerator(), images, images / "out").names) == 7
    with pytest.raises(ValueError, match="lies in output_dir"):
        run(FakeGenerator(), images / "out" / "originals", images / "out")


def test_unreadable_images_are_named(images, tmp_path, capsys):
    broken = break_images(images)
    report = run(FakeGenerator(), images, tmp_path / "out")
    assert set(report.bad) == broken
    assert len((tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()) == 3
    assert "cut.png" in capsys.readouterr().out
    assert "3 unreadable and left out" in (tmp_path / "out" / "index.html").read_text()


def test_nothing_readable_is_an_error(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 1 images can be read"):
        run(FakeGenerator(), folder, tmp_path / "out")


def test_one_image_has_the_measures_of_pairs_alone_and_says_so(images, tmp_path, capsys):
    run(FakeGenerator(), images / "b.png", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (entry,) = written["seeds"]
    assert written["measures"].keys() == {"psnr", "ssim"} <= entry.keys()
    conditions = {
        "n": 1, "extractor": "vision_tower", "seed": 42, "guidance_scale": 2.0, "scheduler": "ddpm", "checkpoint": "c",
    }  # fmt: skip
    assert {key: entry[key] for key in conditions} == conditions
    note = "1 image: fd_vision_tower needs at least 2 and kd_paired_vision_tower needs at least 2, so left out"
    assert written["note"] == note
    assert note in capsys.readouterr().out
    assert note in (tmp_path / "out" / "index.html").read_text()


def test_a_new_measure_shows_in_metrics_and_page_by_its_file_alone(images, tmp_path, monkeypatch):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "mean_shift.py").write_text(
        "from vlv.evaluation.interface import FeatureMeasure, SetValue\n"
        "MEASURE = FeatureMeasure('mean_shift', 'Distance of <both> means', 'lower', minimum=2,\n"
        "                         compute=lambda a, b: SetValue(float((a.mean(0) - b.mean(0)).norm())))\n"
    )
    (plugins / "brightness.py").write_text(
        "from vlv.evaluation.interface import PairMeasure\n"
        "MEASURE = PairMeasure('brightness', 'Brightness that the reconstruction adds', 'lower',\n"
        "                      compute=lambda a, b: float(b.float().mean() - a.float().mean()))\n"
    )
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(plugins)])
    output = tmp_path / "out"
    run_together(2, images, output, sampling=replace(SAMPLING, seeds=[1, 2]))
    metrics = json.loads((output / "metrics.json").read_text())
    brightness = []
    for name in sorted(path.name for path in (output / "originals").rglob("*.png")):
        pair = [Image.open(next((output / kind).rglob(name))) for kind in ("originals", "reconstructions/seed_2")]
        means = [torch.tensor(list(picture.convert("RGB").tobytes())).double().mean() for picture in pair]
        brightness.append(float(means[1] - means[0]))
    assert metrics["seeds"][1]["brightness"] == pytest.approx(sum(brightness) / len(brightness), abs=1e-3)
    assert {"mean_shift_vision_tower", "brightness"} <= metrics["mean"].keys()
    page = (output / "index.html").read_text()
    for text in ("mean shift vision tower", "Distance of &lt;both&gt; means", "brightness", "lower is better"):
        assert text in page


def test_an_output_that_cannot_be_written_is_named(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output_dir=.*cannot be written"):
        run(FakeGenerator(), images, tmp_path / "file" / "out")


def test_previews_show_captions(images, tmp_path):
    generated = generate_previews(FakeGenerator(), str(images), tmp_path / "previews", **SETTINGS)
    below = tmp_path / "previews" / "comparisons" / "b.png"
    bare = Image.open(below).size
    page = write_previews(generated, {"b.png": "a <b>bold</b> caption"}).read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; caption" in page
    assert page.count("<article") == 7
    assert Image.open(below).height > bare[1]
    assert Image.open(tmp_path / "previews" / "comparisons" / "c.png").size == bare
    generator = FakeGenerator()
    again = generate_previews(generator, str(images), tmp_path / "previews", **SETTINGS)
    assert generator.generated == 0
    assert again.names == sorted(again.names)
