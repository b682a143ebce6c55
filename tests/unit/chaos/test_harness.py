"""The harness on a toy job: it must find each fault that a run can have, and none where there is none."""

import json
import sys

import pytest
from PIL import Image

from vlv.chaos.comparison import Findings, logged
from vlv.chaos.harness import ChaosError, wreak
from vlv.chaos.jobs import Hit
from vlv.chaos.lives import Moment
from vlv.chaos.report import passed, table
from vlv.config import ChaosConfig

# Counts to 20, a number a line and 30 ms; a life goes on where the file ends. The fault is in how it goes on.
TOY = """
import sys, time
from pathlib import Path

path, fault = Path(sys.argv[1], "numbers"), sys.argv[2]
done = len(path.read_text().split()) if path.exists() else 0
if fault == "fails" and done:
    sys.exit("it cannot go on")
begin = done + {"repeats": -1, "skips": 1}.get(fault, 0) if done else 0
for number in range(begin, 20):
    with path.open("a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.03)
Path(sys.argv[1], "model.safetensors").write_bytes(b"2" if fault == "drifts" and done else b"1")
"""


class Toy:
    unit = "steps"

    def __init__(self, fault):
        self.fault = fault

    def call(self, folder, processes, workers):
        return [sys.executable, "-c", TOY, str(folder), self.fault]

    def moments(self, folder, seconds):
        return [(1.0, Moment("work", lambda: self.mark(folder), 0.01, changes=5))]

    def mark(self, folder):
        path = folder / "numbers"
        return path.stat().st_size if path.exists() else 0

    def look(self, folder, before):
        return Hit("start" if self.mark(folder) == before else "work", again=1)

    def compare(self, folder, reference, findings):
        pass

    def finish(self, folder, reference, findings):
        numbers = [(top / "numbers").read_text().split() for top in (folder, reference)]
        findings.count(*numbers)
        findings.compare_files("finished models", folder, reference, "*.safetensors")


def run(fault, folder, **changes):
    told = []
    config = ChaosConfig(job="stage1", **{"kills": 3, **changes})
    report = wreak(Toy(fault), config, folder, told.append)
    assert sum(told) == report.kills
    return report


def test_a_run_that_loses_nothing_passes(tmp_path):
    report = run("none", tmp_path)
    assert (report.kills, report.places) == (3, {"work": 3})
    assert (report.findings.lost, report.findings.repeated, report.again) == (0, 0, 3)
    assert passed(report, to_the_bit=True)
    assert "| steps lost | 0 |" in table(report, "steps")
    assert "| finished models compared | 1, 0 different |" in table(report, "steps")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"untouched"}


@pytest.mark.parametrize(("fault", "lost", "repeated"), [("repeats", False, True), ("skips", True, False)])
def test_what_is_lost_or_done_twice_is_counted(tmp_path, fault, lost, repeated):
    report = run(fault, tmp_path)
    assert (report.findings.lost > 0, report.findings.repeated > 0) == (lost, repeated)
    assert not passed(report, to_the_bit=True)
    assert not passed(report, to_the_bit=False)


def test_another_result_is_named_and_kept(tmp_path):
    report = run("drifts", tmp_path)
    (name,) = report.findings.tallies["finished models"].different
    assert name == str(tmp_path / "run_000" / "model.safetensors")
    assert (tmp_path / "run_000" / "model.safetensors").read_bytes() == b"2"
    assert not passed(report, to_the_bit=True)
    assert passed(report, to_the_bit=False)  # where the number of processes changes, losses decide


def test_a_life_that_fails_by_itself_ends_it_with_its_last_line(tmp_path):
    with pytest.raises(ChaosError, match=r"nobody killed ended with exit code 1: it cannot go on \(in .*run_000.log\)"):
        run("fails", tmp_path)


def test_losses_are_compared_by_line_without_times(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss": 2.0, "train/images_per_second": 3.0}\n{"step": 1, "val/loss": 1.0}\n{"step": 2, "tr'
    )
    lines = dict(logged(tmp_path))
    assert lines == {"step 1": {"train/loss": 2.0}, "validation 1": {"val/loss": 1.0}}
    findings = Findings()
    findings.compare_losses("run", {**lines, "step 1": {"train/loss": 2.1}}, lines)
    assert findings.tallies["logged losses"].compared == 2
    assert findings.tallies["logged losses"].different == ["run: step 1"]
    assert findings.loss_difference == pytest.approx(0.05)


def test_pictures_may_differ_by_rounding_and_no_more(tmp_path):
    folder, reference = tmp_path / "run", tmp_path / "reference"
    values = {"a": (10, 10), "b": (11, 10), "c": (12, 10), "d": (None, 10)}
    for name, pair in values.items():
        for top, level in zip((folder, reference), pair, strict=True):
            top.mkdir(exist_ok=True)
            if level is not None:
                Image.new("RGB", (3, 3), (0, level, 0)).save(top / f"{name}.png")
    findings = Findings()
    findings.compare_pictures(folder, reference, "*.png")
    assert findings.tallies["pictures"].different == [str(folder / "c.png"), str(folder / "d.png")]
    assert (findings.tallies["pictures"].compared, findings.rounded) == (4, 1)
    for top, value in ((folder, 2.0001), (reference, 2.0)):
        (top / "metrics.json").write_text(json.dumps({"seeds": [{"seed": 1, "psnr": value, "fid": value**40}]}))
    findings.compare_measures(folder, reference)
    assert findings.tallies["measures"].different == ["run: fid"]
