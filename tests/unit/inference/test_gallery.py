from html.parser import HTMLParser
from urllib.parse import unquote

from vlv.inference.gallery import GalleryEntry, write_gallery


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]


def parse(page):
    links = Links()
    links.feed(page)
    return links


def test_everything_is_escaped_and_links_are_relative(tmp_path):
    name = 'x" onerror="alert(1)<script>#?%.png'
    entry = GalleryEntry(name, {"original": f"originals/{name}"}, "<script>alert(2)</script> {braces}")
    write_gallery(tmp_path / "index.html", "<b>", {"checkpoint": "</dl><script>"}, [entry])
    links = parse((tmp_path / "index.html").read_text())
    assert links.tags.count("script") == 1  # the page's own filter
    assert {unquote(source) for source in links.sources} == {f"originals/{name}"}
    assert not any(source.startswith(("http", "/")) or "#" in source for source in links.sources)


def test_measures_of_several_seeds(tmp_path):
    conditions = {"n": 5, "extractor": "inception", "resizer": "bicubic to 299"}
    metrics = {
        "measures": {
            "fid": {"better": "lower", "meaning": "how far the sets are apart", "minimum": 2},
            "psnr": {"better": "higher", "meaning": "how near the pixels are", "minimum": 1},
        },
        "seeds": [
            {"seed": 1, "fid": 12.5, "psnr": 20.5, **conditions},
            {"seed": 2, "fid": 13.5, "psnr": 21.5, **conditions},
        ],
        "mean": {"fid": 13.0, "psnr": 21.0, **conditions},
        "std": {"fid": 0.7, "psnr": 0.7, **conditions},
    }
    write_gallery(tmp_path / "index.html", "t", {}, [], metrics, num_bad=2)
    page = (tmp_path / "index.html").read_text()
    for text in (
        "seed 1",
        "12.5",
        "21.5",
        "fid ↓",
        "psnr ↑",
        "how near the pixels are",
        "mean",
        "std",
        "inception",
        "2 unreadable",
        "0 images",
    ):
        assert text in page


def test_five_thousand_images_are_loaded_lazily(tmp_path):
    entries = [GalleryEntry(f"{n}.jpg", {"original": f"originals/{n}.png"}, "caption") for n in range(5000)]
    write_gallery(tmp_path / "index.html", "t", {}, entries)
    page = (tmp_path / "index.html").read_text()
    assert page.count('loading="lazy"') == 5000
    assert len(page) < 5_000_000
