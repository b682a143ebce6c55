"""Datasets for the tools, and the command called as a user calls it."""

import json

import pytest
from PIL import Image

from tests.unit.data.pictures import encode, picture
from vlv.cli.main import main


@pytest.fixture
def call(capsys):
    """Call `vlv data ...`: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = 0
        try:
            main(["data", *map(str, arguments)])
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def photos(tmp_path):
    """Eleven images of several kinds with captions, in two folders; one is turned by EXIF, one has transparency."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    turned = Image.Exif()
    turned[274] = 6
    files = {f"{number:02d}.png": encode(picture(number)) for number in range(6)}
    files["sub/a.b.jpg"] = encode(picture(6, (64, 48)), "JPEG", exif=turned)
    files["sub/c.webp"] = encode(picture(7, (90, 30)), "WEBP")
    files["sub/d.JPEG"] = encode(picture(8, (20, 70)), "JPEG")
    files["sub/e.png"] = encode(picture(9).convert("RGBA"))
    files["sub/f.tif"] = encode(picture(10), "TIFF")
    for name, data in files.items():
        (root / name).write_bytes(data)
    captions = {name: f"the caption of {name} é" for name in files}
    captions["01.png"] = "  kept with its spaces\n"
    (root / "captions.json").write_text(json.dumps(captions))
    return root
