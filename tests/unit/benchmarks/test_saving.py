import json

from vlv.cli.benchmark import main


def test_every_time_is_measured_and_nothing_is_left(tmp_path, capsys):
    main(["save", str(tmp_path / "disk"), "parameters=2000000", "rounds=2", f"json={tmp_path / 'facts.json'}"])
    printed = capsys.readouterr().out
    assert printed.startswith("0.01 GB in a checkpoint: weights and AdamW's state of 2,000,000 parameters in fp32")
    assert "| training stands still | 0." in printed
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["bytes"] == 3 * 4 * 1024**2
    assert len(facts["runs"]) == 2
    assert all(value > 0 for run in facts["runs"] for value in run.values())
    assert all(run["stall"] < run["written"] for run in facts["runs"])
    assert list((tmp_path / "disk").iterdir()) == []
