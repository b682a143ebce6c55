"""`vlv demo` as a user has it: the small world's models, in a real browser.

`UPDATE_DOCS=1 pytest tests/integration/test_demo.py` also writes the screenshots of docs/demo.md.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.servers import served
from vlv import VLVCaptioner
from vlv.demo.loading import load_demo_model
from vlv.demo.model import Sampling
from vlv.shapes.render import render
from vlv.shapes.runs import TRAINED
from vlv.shapes.scene import make_scene

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "demo"
UPDATE = bool(os.environ.get("UPDATE_DOCS"))
SAMPLING = Sampling(num_inference_steps=25 if UPDATE else 4)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE = 120_000  # milliseconds; on a busy machine
DRAWN, FROM_TEXT, COMPOSED, IMAGE = (f"#{name} img" for name in ("drawn", "from-text", "composed", "image"))
CAPTION = "#caption textarea"


@pytest.fixture(scope="module")
def outside():
    """A proxy that every library is pointed to for the world outside; says who came."""
    asked = []
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()

        def watch():
            while True:
                try:
                    visitor, _ = trap.accept()
                except OSError:
                    return
                asked.append(visitor.recv(1000))
                visitor.close()

        threading.Thread(target=watch, daemon=True).start()
        yield trap.getsockname()[1], asked
        trap.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def address(tmp_path_factory, outside):
    def command(port):
        steps = f"num_inference_steps={SAMPLING.num_inference_steps}"
        return [sys.executable, "-m", "vlv", "demo", f"port={port}", steps]

    def is_up(_, printed):
        return "showing the captioner of the small world on" in printed

    proxy = {f"{scheme}_PROXY": f"http://127.0.0.1:{outside[0]}" for scheme in ("HTTP", "HTTPS", "ALL")}
    proxy["NO_PROXY"] = "127.0.0.1,localhost"
    with served(tmp_path_factory.mktemp("demo"), command, is_up, PATIENCE / 1000, **proxy) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=FLAGS.split(),
            viewport={"width": 1180, "height": 860},
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, address):
    opened, asked, failures = chromium.new_page(), [], []
    opened.set_default_timeout(PATIENCE)
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failures.append(error))
    opened.goto(address)
    opened.wait_for_selector("#image")
    yield opened
    opened.close()
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {address[7:]}
    assert failures == []


@pytest.fixture(scope="module")
def model():
    return load_demo_model(VLVCaptioner.from_pretrained(TRAINED / "captioner"), TRAINED / "captioner")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pictures of four scenes, and their files."""
    folder = tmp_path_factory.mktemp("scenes")
    pictures = [render(make_scene("test", number), number) for number in range(4)]
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    return [(picture, folder / f"{number}.png") for number, picture in enumerate(pictures)]


def drop(page, name, path):
    page.set_input_files(f"#{name} input[type=file]", path)


def shown(page, selector, before=None):
    """The address of a picture on the page, once it is another than before."""
    page.wait_for_function(
        "([selector, before]) => { const seen = document.querySelector(selector);"
        " return seen && seen.complete && seen.naturalWidth && seen.src != before }",
        arg=[selector, before],
    )
    return page.get_attribute(selector, "src")


def pixels(url):
    with urllib.request.urlopen(url) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))


def slide(page, name, value):
    number = page.locator(f"#{name} input[type=number]")
    number.fill(str(value))
    number.blur()


def keep_screenshot(page, name):
    """For the docs, once nothing moves any more."""
    if UPDATE:
        DOCS.mkdir(exist_ok=True)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)
        page.screenshot(path=DOCS / f"{name}.png", full_page=True)


def test_a_dropped_image_is_captioned_and_drawn(page, model, scenes):
    picture, path = scenes[0]
    drop(page, "image", path)
    drawn, from_text = shown(page, DRAWN), shown(page, FROM_TEXT)
    *_, caption = model.caption(picture)
    assert page.input_value(CAPTION) == caption
    assert np.array_equal(pixels(drawn), np.asarray(model.reconstruct(picture, SAMPLING)))
    assert np.array_equal(pixels(from_text), np.asarray(model.draw_text(caption, SAMPLING)))
    keep_screenshot(page, "one_image")
    # Other words, drawn beside it.
    page.fill(CAPTION, "A large red circle in the center on a white background.")
    page.click("#draw-text")
    other = shown(page, FROM_TEXT, from_text)
    assert np.array_equal(pixels(other), np.asarray(model.draw_text(page.input_value(CAPTION), SAMPLING)))
    assert page.get_attribute(DRAWN, "src") == drawn
    # Fewer rows: another caption and another picture.
    slide(page, "rows", 4)
    fewer = shown(page, DRAWN, drawn)
    shown(page, FROM_TEXT, other)
    *_, caption = model.caption(picture, 4)
    assert page.input_value(CAPTION) == caption
    assert np.array_equal(pixels(fewer), np.asarray(model.reconstruct(picture, SAMPLING, 4)))
    keep_screenshot(page, "fewer_rows")


def test_the_caption_streams(page, scenes):
    page.evaluate(
        f"""() => {{ window.seen = new Set();
        setInterval(() => window.seen.add(document.querySelector("{CAPTION}").value), 5); }}"""
    )
    drop(page, "image", scenes[1][1])
    shown(page, DRAWN)
    seen = page.evaluate("() => [...window.seen]")
    caption = page.input_value(CAPTION)
    parts = [text for text in seen if text and text != caption]
    assert len(parts) > 3
    assert all(caption.startswith(text) for text in parts)


@pytest.mark.parametrize("content", [b"no picture at all", b"\x89PNG\r\n\x1a\n cut"], ids=["text", "damaged"])
def test_a_file_that_cannot_be_read_is_said(page, scenes, tmp_path, content):
    bad = tmp_path / "holiday.png"
    bad.write_bytes(content)
    drop(page, "image", bad)
    note = page.locator(".message:visible")
    note.wait_for()
    assert note.inner_text().startswith("holiday.png cannot be read: ")
    page.wait_for_selector("#image input[type=file]", state="attached")  # it is off the page again
    if content.startswith(b"no"):
        keep_screenshot(page, "unreadable")
    drop(page, "image", scenes[0][1])  # and the next one works
    shown(page, DRAWN)
    assert page.input_value(CAPTION)
    assert note.count() == 0


def test_an_example_is_one_click_away(page):
    page.locator(".gallery-item").first.click()
    shown(page, DRAWN)
    assert page.input_value(CAPTION)


def test_two_images_are_composed(page, model, scenes):
    page.get_by_role("tab", name="Two images").click()
    (first, first_path), (second, second_path) = scenes[0], scenes[3]
    drop(page, "first", first_path)
    drop(page, "second", second_path)
    half = shown(page, COMPOSED)
    assert np.array_equal(pixels(half), np.asarray(model.compose(first, second, 5, "in place", SAMPLING)))
    keep_screenshot(page, "two_images")
    slide(page, "share", 10)
    whole = shown(page, COMPOSED, half)
    assert np.array_equal(pixels(whole), np.asarray(model.reconstruct(first, SAMPLING)))
    page.get_by_label("the first rows of both").check()
    slide(page, "share", 4)
    other = shown(page, COMPOSED, whole)
    page.wait_for_timeout(500)
    other = shown(page, COMPOSED)
    assert np.array_equal(pixels(other), np.asarray(model.compose(first, second, 4, "first rows", SAMPLING)))


def test_nothing_outside_is_asked(page, outside):
    assert outside[1] == []


def test_a_taken_port_is_said_before_anything_is_loaded(address):
    port = address.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "vlv", "demo", f"port={port}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"port={port} of 127.0.0.1 cannot be used" in done.stderr
    assert "torch" not in done.stderr
