import json
import subprocess

import pytest
import torch

from vlv.benchmarks.all_suites import calls_of_cpu, calls_of_gpu
from vlv.cli.benchmark import SUITES, main
from vlv.config import BenchmarkSpeedConfig, BenchmarkStartupConfig
from vlv.settings import resolve_config


@pytest.mark.parametrize("calls", [calls_of_cpu(True), calls_of_cpu(False), calls_of_gpu(1), calls_of_gpu(8)])
def test_every_call_is_one_that_its_suite_takes(calls):
    for name, (suite, *settings) in calls.items():
        assert suite in SUITES
        assert name.split("_")[0] == suite  # by which the documentation's test knows the table
        kind = BenchmarkStartupConfig if suite == "startup" else BenchmarkSpeedConfig
        resolve_config(kind, None, settings)


def test_a_gpu_has_every_suite_at_full_size():
    assert {name for name in calls_of_gpu(8) if "_full" in name} == {
        "stage1_full", "stage1_full_all", "stage2_full", "caption_full", "caption_full_beams", "reconstruct_full",
    }  # fmt: skip


def test_one_call_goes_on_where_it_was_ended(tmp_path, monkeypatch, capsys):
    made = []

    def run(call, check):
        *_, written = call
        name = written.rpartition("/")[2].removesuffix(".json")
        made.append(name)
        if name != "stage2":
            (tmp_path / f"{name}.json").write_text(json.dumps({}))
        return subprocess.CompletedProcess(call, int(name == "stage2"))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "stage1.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        main(["all", f"output_dir={tmp_path}"])
    assert stopped.value.code == 1
    shown = capsys.readouterr()
    assert "calls failed, see above: stage2" in shown.err
    assert f"{tmp_path}/stage1.json is there: not measured again" in shown.out
    assert "stage1" not in made
    assert "reconstruct" in made  # after the one that failed
    made.clear()
    with pytest.raises(SystemExit):
        main(["all", f"output_dir={tmp_path}"])
    assert made == ["stage2"]
