"""What decoding and converting an image takes of memory, against what `max_image_mib` counts."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vlv.colour import to_rgb
from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample
from vlv.data.transforms import decode_image

SIDE = 4096
KINDS = {
    "png rgba": ("PNG", "RGBA", {}),
    "png turned": ("PNG", "RGB", {"orientation": 6}),
    "png grey 16": ("PNG", "I;16", {}),
    "tiff float": ("TIFF", "F", {}),
    "jpeg progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "webp": ("WEBP", "RGBA", {"method": 0}),
}
MEASURE = """
import sys
from pathlib import Path
from vlv.colour import to_rgb
from vlv.data.transforms import decode_image

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

raw = Path(sys.argv[1]).read_bytes()
to_rgb(decode_image(Path(sys.argv[2]).read_bytes()))  # loads the plug-ins
before = peak()
to_rgb(decode_image(raw))
print(peak() - before)
"""


def stored(kind, mode, side, **options):
    grey = np.arange(side * side, dtype=np.uint32).reshape(side, side) % 256
    if mode in ("I;16", "F"):
        image = Image.fromarray(grey.astype(np.uint16) if mode == "I;16" else (grey / 255).astype(np.float32))
    else:
        image = Image.fromarray(grey.astype(np.uint8)).convert(mode)
    if orientation := options.pop("orientation", None):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("name", KINDS)
def test_no_image_takes_more_memory_than_is_counted(name, tmp_path):
    kind, mode, options = KINDS[name]
    (tmp_path / "large").write_bytes(stored(kind, mode, SIDE, **options))
    (tmp_path / "small").write_bytes(stored(kind, mode, 64, **options))
    command = [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small"]
    taken = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with pytest.raises(BadSample, match="too large: 4096 x 4096 pixels"):
        decode_image((tmp_path / "large").read_bytes(), DecodeSettings(max_image_mib=int(0.95 * taken)))


@pytest.mark.parametrize("name", KINDS)
def test_bands_change_no_pixel(name, monkeypatch):
    kind, mode, options = KINDS[name]
    image = decode_image(stored(kind, mode, 100, **options))
    whole = to_rgb(image)
    monkeypatch.setattr("vlv.colour._BAND_PIXELS", 1_700)
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(whole))


def test_a_large_jpeg_that_is_decoded_at_a_reduced_scale_may_pass():
    raw = stored("JPEG", "RGB", 1024)
    with pytest.raises(BadSample, match="too large"):
        decode_image(raw, DecodeSettings(max_image_mib=4))
    reduced = DecodeSettings(max_image_mib=4, reduced_jpeg=True)
    assert decode_image(raw, reduced, least_side=256).size == (256, 256)
