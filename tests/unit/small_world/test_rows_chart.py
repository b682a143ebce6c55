"""The chart of F1 by the number of rows kept."""

from xml.etree import ElementTree

from scripts.small_world.rows_chart import write_rows_chart

SVG = "{http://www.w3.org/2000/svg}"
KEPT = (1, 4, 10)
NAMES = ("nested_caption_f1", "plain_caption_f1", "nested_reconstruction_f1", "plain_reconstruction_f1")


def test_each_point_stands_at_its_rows_and_its_f1(tmp_path):
    row = {f"{name}_of_{n}": (1.0 if name == "nested_caption_f1" else 0.0) for name in NAMES for n in KEPT}
    row["plain_caption_f1_of_10"] = 0.5
    write_rows_chart(tmp_path / "chart.svg", row, KEPT)
    lines = ElementTree.parse(tmp_path / "chart.svg").findall(f"{SVG}polyline")
    first, second, *_ = [[tuple(map(float, xy.split(","))) for xy in line.get("points").split()] for line in lines]
    assert len(lines) == len(NAMES)
    assert [x for x, _ in first] == [x for x, _ in second]
    across = [x - first[0][0] for x, _ in first]
    assert abs(across[1] / across[2] - 3 / 9) < 1e-3  # a linear axis
    (top,), bottom = {y for _, y in first}, second[0][1]
    assert top < second[2][1] < bottom
    assert abs(second[2][1] - (top + bottom) / 2) < 0.11
