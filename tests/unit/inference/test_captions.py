import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from vlv.data.formats import DecodeSettings
from vlv.inference.captions import CaptionSearch, caption_images, local_images
from vlv.inference.images import ReadSettings
from vlv.inference.outputs import JsonFile
from vlv.inference.processes import Processes

from .stand_ins import FakeCaptioner, break_images, write_image


def run(captioner, images, output, preview_dir=None, **changes):
    settings = {
        "search": CaptionSearch(num_beams=1),
        "reading": ReadSettings(batch_size=2, decoding=DecodeSettings(max_image_mib=12)),
        "identity": {"checkpoint": "c"},
    }
    inputs = local_images(str(images), preview_dir)
    return caption_images(captioner, inputs, JsonFile(output), **{**settings, **changes})


def unfinished_lines(partial):
    """The journals of blocks that are not done."""
    return sorted(partial.glob("block*.jsonl"))


def captions_in(partial):
    """How many captions a folder of an interrupted run holds."""
    return sum(path.read_text().count('"captions"') for path in partial.rglob("*.jsonl"))


def run_together(count, images, output, **changes):
    """Run `count` processes as threads with a real barrier; returns their captioners."""
    barrier = Barrier(count, timeout=30)
    captioners = [FakeCaptioner() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        runs = [
            pool.submit(
                run, captioners[index], images, output,
                processes=Processes(index, count, barrier.wait), **changes,
            )
            for index in range(count)
        ]  # fmt: skip
        for one in runs:
            one.result()
    return captioners


def test_captions_of_a_folder_are_sorted_utf8_and_relative(images, tmp_path):
    report = run(FakeCaptioner(), images, tmp_path / "out" / "captions.json")
    text = report.output_path.read_text(encoding="utf-8")
    captions = json.loads(text)
    assert list(captions) == sorted(captions)
    assert set(captions) == {"a.png", "a.bmp", "b.png", "c.png", "dogs/a.png", "e è&<x>.png", "z.png"}
    assert "é" in text
    assert "è" in text
    assert report.num_captions == 7
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["captions.json"]


def test_a_file_and_a_glob(images, tmp_path):
    run(FakeCaptioner(), images / "dogs" / "a.png", tmp_path / "one.json")
    assert list(json.loads((tmp_path / "one.json").read_text())) == ["a.png"]
    run(FakeCaptioner(), images / "**" / "a.*", tmp_path / "some.json")
    assert list(json.loads((tmp_path / "some.json").read_text())) == ["a.bmp", "a.png", "dogs/a.png"]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_processes_share_the_images_and_agree_with_one(images, tmp_path, count):
    break_images(images)
    run(FakeCaptioner(), images, tmp_path / "one.json")
    captioners = run_together(count, images, tmp_path / "many.json")
    assert (tmp_path / "many.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert sum(captioner.captioned for captioner in captioners) == 7


def test_an_interrupted_run_resumes_and_recomputes_nothing(images, tmp_path):
    output = tmp_path / "captions.json"
    with pytest.raises(KeyboardInterrupt):
        run(FakeCaptioner(stop_after=4), images, output)
    assert not output.exists()
    partial = tmp_path / "captions.json.partial"
    assert captions_in(partial) == 4
    last = max((partial / "done").iterdir())
    torn = partial / "block00000003_0.jsonl"
    torn.write_bytes(last.read_bytes().splitlines()[1][:-9])  # killed within the last line: it is captioned again
    last.unlink()
    captioners = run_together(2, images, output)
    assert sum(captioner.captioned for captioner in captioners) == 4
    run(FakeCaptioner(), images, tmp_path / "whole.json")
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not partial.exists()


def test_records_of_another_run_are_passed_over(images, tmp_path):
    """As two runs without a lock left them: in one folder, under the identity of one of them."""
    output = tmp_path / "captions.json"
    for stop, beams in ((4, 1), (2, 2)):
        with pytest.raises(KeyboardInterrupt):
            run(FakeCaptioner(stop_after=stop), images, output, search=CaptionSearch(num_beams=beams))
    mine, other = tmp_path / "captions.json.partial", tmp_path / "captions.json.partial.1"
    strange = json.loads(max((other / "done").iterdir()).read_text().splitlines()[1])
    lines = {**strange, "captions": ["of the other run"], "run": "0" * 16}
    (mine / f"block{strange['index']:08}_1.jsonl").write_text(json.dumps(lines) + "\n")
    report = run(FakeCaptioner(), images, output, search=CaptionSearch(num_beams=2))
    assert report.num_reused == 2
    assert "other run" not in output.read_text()


def test_an_image_that_was_replaced_is_captioned_anew(images, tmp_path):
    output = tmp_path / "captions.json"
    with pytest.raises(KeyboardInterrupt):
        run(FakeCaptioner(stop_after=4), images, output)
    write_image(images / "a.png", 99)
    captioner = FakeCaptioner()
    report = run(captioner, images, output)
    assert (captioner.captioned, report.num_reused) == (4, 3)
    run(FakeCaptioner(), images, tmp_path / "whole.json")
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_appending_to_a_torn_line_keeps_the_new_captions(images, tmp_path):
    output = tmp_path / "captions.json"
    with pytest.raises(KeyboardInterrupt):
        run(FakeCaptioner(stop_after=2), images, output)
    partial = tmp_path / "captions.json.partial"
    (partial / "blocks.json").write_text('{"size": 5}')  # as of a larger set, where a block outlives a batch
    for path in (partial / "done").iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(FakeCaptioner(stop_after=2), images, output)
    (lines,) = unfinished_lines(partial)
    assert captions_in(partial) == 2
    lines.write_bytes(lines.read_bytes()[:-9])
    with pytest.raises(KeyboardInterrupt):
        run(FakeCaptioner(stop_after=2), images, output)
    assert b"\n\n" not in lines.read_bytes()
    last = FakeCaptioner()
    assert run(last, images, output).num_reused == 3
    assert last.captioned == 4


@pytest.mark.parametrize(
    "change", [{"search": CaptionSearch(4)}, {"search": CaptionSearch(1, 9)}, {"identity": {"checkpoint": "other"}}]
)
def test_captions_of_another_search_or_checkpoint_are_set_aside(images, tmp_path, capsys, change):
    output = tmp_path / "captions.json"
    with pytest.raises(KeyboardInterrupt):
        run(FakeCaptioner(stop_after=4), images, output)
    captioner = FakeCaptioner()
    run(captioner, images, output, **change)
    assert captioner.captioned == 7
    assert "set aside" in capsys.readouterr().out
    assert captions_in(tmp_path / "captions.json.partial.1") == 4


def test_unreadable_images_are_named_and_left_out(images, tmp_path, capsys):
    broken = break_images(images)
    report = run(FakeCaptioner(), images, tmp_path / "captions.json", reading=ReadSettings(num_workers=1))
    assert set(report.bad) == broken
    assert not broken & json.loads(report.output_path.read_text()).keys()
    lines = [json.loads(line) for line in (tmp_path / "captions_bad_samples.jsonl").read_text().splitlines()]
    assert {line["name"]: line["reason"] for line in lines} == report.bad
    printed = capsys.readouterr().out
    assert "3 of 10 images could not be read" in printed
    assert "empty.jpg: the file is empty" in printed
    for name in broken:
        (images / name).unlink()
    run(FakeCaptioner(), images, tmp_path / "captions.json")
    assert not (tmp_path / "captions_bad_samples.jsonl").exists()


def test_nothing_readable_is_an_error(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 1 images can be read.*x\.jpg: the file is empty"):
        run(FakeCaptioner(), folder, tmp_path / "captions.json")
    assert not (tmp_path / "captions.json").exists()
    assert not (tmp_path / "captions.json.partial").exists()


def test_an_output_that_cannot_be_written_is_named(images, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "captions.json", tmp_path):
        with pytest.raises(ValueError, match="output_path="):
            run(FakeCaptioner(), images, output)


def test_previews_within_the_image_path_are_no_input(images, tmp_path):
    output = tmp_path / "captions.json"
    previews = images / "dogs"
    assert run(FakeCaptioner(), images, output, preview_dir=previews).num_captions == 6
    with pytest.raises(ValueError, match="preview_dir"):
        run(FakeCaptioner(), previews, output, preview_dir=previews)
