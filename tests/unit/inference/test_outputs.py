"""Captions of any source into every kind of output: each image once, whatever was killed before."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data import SourceSettings, open_source
from vlv.data.sample import captions_of
from vlv.data.transport import Patience
from vlv.datatools.captioned import write_captioned_shard
from vlv.inference.blocks import Inputs, Part, partial_folder
from vlv.inference.captions import CaptionSearch, caption_images, local_images
from vlv.inference.images import ReadSettings
from vlv.inference.outputs import MANIFEST, JsonFile, JsonLines, PartFiles, TextFiles, write_caption_table

from .stand_ins import FakeCaptioner, break_images, write_image

NAMES = {"a.png", "a.bmp", "b.png", "c.png", "dogs/a.png", "e è&<x>.png", "z.png"}
UNIQUE = NAMES - {"a.bmp"}


def make(kind, path, source):
    names = [source.name(index) for index in range(len(source))]
    return {
        "json": lambda: JsonFile(path),
        "jsonl": lambda: JsonLines(path),
        "txt": lambda: TextFiles(path, iter(names)),
        "parquet": lambda: PartFiles(path, "parquet", write_caption_table),
        "webdataset": lambda: PartFiles(path, "tar", partial(write_captioned_shard, source)),
    }[kind]()


def read_back(kind, path):
    """Name to captions, as each kind says it."""
    if kind == "json":
        return {name: said if isinstance(said, list) else [said] for name, said in json.loads(path.read_text()).items()}
    if kind == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {row["image"]: row["caption"] if isinstance(row["caption"], list) else [row["caption"]] for row in rows}
    if kind == "txt":
        texts = {str(file.relative_to(path)): file.read_text().splitlines() for file in path.rglob("*.txt")}
        return {name.replace(".txt", ".png"): said for name, said in texts.items()}
    assert json.loads((path / MANIFEST).read_text())["files"]
    if kind == "parquet":
        rows = [row for file in sorted(path.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
        return {row["image"]: row["caption"] for row in rows}
    source = open_source(str(path), SourceSettings(captions=True, cache_dir=str(path.parent / "cache")))
    return {index: list(captions_of(source.read(index).caption)) for index in range(len(source))}


def caption(captioner, inputs, output, search=None, **changes):
    search = search or CaptionSearch(num_beams=1)
    return caption_images(captioner, inputs, output, search, ReadSettings(batch_size=2), {"checkpoint": "c"}, **changes)


@pytest.fixture
def unique(images):
    (images / "a.bmp").unlink()  # it would share a.txt with a.png
    return images


KINDS = ["json", "jsonl", "txt", "parquet", "webdataset"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_each_kind_has_every_caption_once_after_a_kill(unique, tmp_path, kind, count):
    path = tmp_path / "out"
    search = CaptionSearch(1) if count == 1 else CaptionSearch(temperature=1.0, count=count, seed=3)
    expected = {}
    for stop in (None, 2):
        inputs = local_images(str(unique))
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                caption(FakeCaptioner(stop_after=stop), inputs, make(kind, path, inputs.source), search)
        report = caption(FakeCaptioner(), inputs, make(kind, path, inputs.source), search)
        assert report.num_captions == len(UNIQUE)
        assert report.num_reused == (stop or 0)
        found = read_back(kind, path)
        assert all(len(said) == count for said in found.values())
        assert len(found) == len(UNIQUE)
        if kind != "webdataset":
            assert set(found) == UNIQUE
        expected = expected or found
        assert found == expected, "a killed run gives what a whole one gives"
        assert not path.with_name("out.partial").exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("kind", ["json", "webdataset"])
def test_shards_are_captioned_as_the_images_that_they_hold(unique, tmp_path, kind):
    inputs = local_images(str(unique))
    caption(FakeCaptioner(), inputs, make("webdataset", tmp_path / "shards", inputs.source))
    source = open_source(str(tmp_path / "shards"), SourceSettings(cache_dir=str(tmp_path / "cache")))
    again = caption(FakeCaptioner(), Inputs("shards", source), make(kind, tmp_path / "again", source))
    assert again.num_captions == len(UNIQUE)
    before = read_back("webdataset", tmp_path / "shards")
    assert list(read_back(kind, tmp_path / "again").values()) == list(before.values())


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
@pytest.mark.parametrize("search", [CaptionSearch(1), CaptionSearch(temperature=1.0)], ids=["same", "another"])
def test_files_of_blocks_that_are_no_more_are_no_part_of_the_output(unique, tmp_path, kind, search):
    path = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        caption(
            FakeCaptioner(stop_after=4), local_images(str(unique)), make(kind, path, local_images(str(unique)).source)
        )
    before = set(path.iterdir())
    for name in sorted(UNIQUE)[3:]:
        (unique / name).unlink()
    assert len(before) > 3
    (unique / sorted(UNIQUE)[0]).write_bytes(b"none")  # a block without a caption now
    inputs = local_images(str(unique))
    report = caption(FakeCaptioner(), inputs, make(kind, path, inputs.source), search)
    assert (report.num_captions, len(report.bad)) == (2, 1)
    files = json.loads((path / MANIFEST).read_text())["files"]
    assert len(read_back(kind, path)) == len(files) == 2
    assert {file.name for file in path.iterdir()} == {*files, MANIFEST}


def test_an_image_that_goes_before_its_shard_is_written_is_reported(unique, tmp_path):
    class Removing(FakeCaptioner):
        def caption_pixels(self, *arguments):
            (unique / "b.png").unlink(missing_ok=True)
            return super().caption_pixels(*arguments)

    inputs = local_images(str(unique))
    report = caption(Removing(), inputs, make("webdataset", tmp_path / "out", inputs.source))
    assert report.num_captions == len(UNIQUE) - 1
    assert report.bad["b.png"].startswith("captioned, and gone meanwhile: the file cannot be read")
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["samples"] == len(UNIQUE) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_table_each_have_their_caption(unique, tmp_path, kind):
    content = [(unique / name).read_bytes() for name in sorted(UNIQUE)]
    pq.write_table(pa.table({"image": content}), tmp_path / "photos.parquet")
    source = open_source(str(tmp_path / "photos.parquet"), SourceSettings())
    report = caption(FakeCaptioner(), Inputs("photos", source), make(kind, tmp_path / "out", source))
    assert report.num_captions == len(UNIQUE)
    found = read_back(kind, tmp_path / "out")
    assert len(found) == len({tuple(said) for said in found.values()}) == len(UNIQUE)
    if kind == "txt":
        assert (tmp_path / "out" / f"{source.name(3)}.txt").is_file()


class Gallery(BaseHTTPRequestHandler):
    """Two images by one path, one image that is refused, and one server that is not there."""

    def do_GET(self):
        images = {"/render.jpg?id=1": "b.png", "/render.jpg?id=2": "c.png", "/z.png": "z.png"}
        self.send_response(200 if self.path in images else 403)
        self.end_headers()
        if self.path in images:
            self.wfile.write((self.server.images / images[self.path]).read_bytes())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_of_urls_ends_whatever_its_servers_say(unique, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("vlv.data.remote._PATIENCE", Patience(timeout=5, retries=1, pause=0.01))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gallery)
    server.images = unique
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    lines = [
        f"{url}/render.jpg?id=1",
        f"{url}/render.jpg?id=2",
        f"{url}/z.png",
        f"{url}/secret.png",
        "http://127.0.0.1:9/a.png",
    ]
    (tmp_path / "urls.list").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "urls.list"), SourceSettings(data_format="folder", remote_cache_gb=0))
    output = make("json", tmp_path / "captions.json", source)
    reading = ReadSettings(batch_size=5, num_workers=workers)
    report = caption_images(FakeCaptioner(), Inputs("urls", source), output, CaptionSearch(1), reading, {})
    server.shutdown()
    assert (report.num_captions, report.num_open) == (3, 0)
    found = json.loads((tmp_path / "captions.json").read_text())
    assert len(found) == len(set(found.values())) == 3
    assert sum(name.startswith(f"{url}/render.jpg#") for name in found) == 2
    assert {name.rsplit("/")[-1] for name in report.bad} == {"secret.png", "a.png"}
    assert "403" in report.bad[f"{url}/secret.png"]
    assert not any("start it again" in reason for reason in report.bad.values())


def test_what_belongs_to_a_folder_lies_in_it_where_its_own_folder_cannot_be_written(unique, tmp_path, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != unique.parent and allowed(path, mode))
    inputs = local_images(str(unique))
    assert partial_folder(unique) == unique / "images.partial"
    assert partial_folder(tmp_path / "captions.json") == tmp_path / "captions.json.partial"
    with pytest.raises(KeyboardInterrupt):
        caption(FakeCaptioner(stop_after=2), inputs, make("txt", unique, inputs.source))
    assert (unique / "images.partial").is_dir()
    before = set(tmp_path.iterdir())
    report = caption(FakeCaptioner(), inputs, make("txt", unique, inputs.source))
    assert report.num_captions == len(UNIQUE)
    assert not (unique / "images.partial").exists()
    assert set(tmp_path.iterdir()) == before


def test_texts_that_are_there_are_kept(unique, tmp_path):
    (unique / "dogs" / "a.txt").write_text("my own words\n")
    inputs = local_images(str(unique))
    captioner = FakeCaptioner()
    report = caption(captioner, inputs, make("txt", unique, inputs.source))
    assert (report.num_kept, report.num_captions, captioner.captioned) == (1, 5, 5)
    assert (unique / "dogs" / "a.txt").read_text() == "my own words\n"
    again = caption(FakeCaptioner(), inputs, make("txt", unique, inputs.source))
    assert (again.num_kept, again.num_captions) == (6, 0)
    names = iter(sorted(UNIQUE))
    over = caption(FakeCaptioner(), inputs, TextFiles(unique, names, overwrite=True))
    assert over.num_captions == 6
    assert "colour" in (unique / "dogs" / "a.txt").read_text()


def test_what_a_killed_run_half_wrote_beside_images_is_removed(unique, tmp_path):
    (unique / "dogs" / f".{'0' * 40}.tmp").write_bytes(b"a re")
    inputs = local_images(str(unique))
    caption(FakeCaptioner(), inputs, make("txt", unique, inputs.source))
    assert sorted(file.name for file in (unique / "dogs").iterdir()) == ["a.png", "a.txt"]


def test_two_images_of_one_text_are_named(images, tmp_path):
    inputs = local_images(str(images))
    with pytest.raises(ValueError, match=r"a\.bmp and a\.png would both have a\.txt"):
        make("txt", tmp_path, inputs.source)


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "b/../../a.png"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of the folder"):
        TextFiles(tmp_path, iter([name]))


def test_a_folder_of_something_else_is_refused(unique, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").touch()
    with pytest.raises(ValueError, match="is not empty"):
        make("parquet", tmp_path / "out", local_images(str(unique)).source)


def test_unreadable_images_are_in_no_output(unique, tmp_path):
    broken = break_images(unique)
    inputs = local_images(str(unique))
    report = caption(FakeCaptioner(), inputs, make("jsonl", tmp_path / "out.jsonl", inputs.source))
    assert set(report.bad) == broken
    assert set(read_back("jsonl", tmp_path / "out.jsonl")) == UNIQUE
    assert (tmp_path / "out_bad_samples.jsonl").exists()


def test_prefix_suffix_and_seeds(unique, tmp_path):
    found = []
    for number, batch in enumerate((1, 4)):
        inputs, output = local_images(str(unique)), JsonFile(tmp_path / f"{number}.json")
        search = CaptionSearch(temperature=0.8, count=2, seed=5, prefix="sks, ", suffix=" --ar 1:1")
        caption_images(FakeCaptioner(), inputs, output, search, ReadSettings(batch_size=batch), {})
        found.append(read_back("json", output.path))
    assert found[0] == found[1], "seeds go by the image, not by its place in a batch"
    for said in found[0].values():
        assert len(set(said)) == 2
        assert all(text.startswith("sks, ") and text.endswith(" --ar 1:1") for text in said)


def test_jobs_share_the_blocks_and_the_last_makes_the_output(unique, tmp_path):
    path = tmp_path / "out"
    whole = caption(FakeCaptioner(), local_images(str(unique)), JsonFile(tmp_path / "whole.json"))
    assert whole.num_captions == len(UNIQUE)

    def job(index, captioner=None):
        inputs = local_images(str(unique))
        output = make("webdataset", path, inputs.source)
        return caption(captioner or FakeCaptioner(), inputs, output, part=Part(index, 3))

    with pytest.raises(KeyboardInterrupt):
        job(1, FakeCaptioner(stop_after=0))
    found = [job(index) for index in (2, 0)]
    assert all(report.num_open for report in found)
    assert not (path / MANIFEST).exists()
    last = job(1)
    assert (last.num_open, last.num_captions) == (0, len(UNIQUE))
    expected = [[text] for text in json.loads((tmp_path / "whole.json").read_text()).values()]
    assert list(read_back("webdataset", path).values()) == expected
    assert not path.with_name("out.partial").exists()
    again = FakeCaptioner()
    late = job(0, again)
    assert (late.was_whole, late.num_captions, again.captioned) == (True, 0, 0), "a requeued job has nothing to do"


def test_jobs_at_once_leave_nothing_out(images, tmp_path):
    for number in range(40):
        write_image(images / "more" / f"{number}.png", number)
    count = 4

    def job(index):
        output = JsonFile(tmp_path / "out.json")
        return caption(FakeCaptioner(), local_images(str(images)), output, part=Part(index, count))

    with ThreadPoolExecutor(count) as pool:
        reports = list(pool.map(job, range(count)))
    assert sum(report.num_open == 0 for report in reports) >= 1
    assert len(json.loads((tmp_path / "out.json").read_text())) == len(local_images(str(images)).source)
    assert not (tmp_path / "out.json.partial").exists()


def test_a_job_of_another_run_does_not_set_aside_what_others_write(unique, tmp_path):
    inputs = local_images(str(unique))
    caption(FakeCaptioner(), inputs, JsonFile(tmp_path / "out.json"), part=Part(0, 2))
    search = CaptionSearch(num_beams=2)
    with pytest.raises(ValueError, match=r"is of another run \(num_beams was 1 and is 2\)"):
        caption(FakeCaptioner(), inputs, JsonFile(tmp_path / "out.json"), search, part=Part(1, 2))
