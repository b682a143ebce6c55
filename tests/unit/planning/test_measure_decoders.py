"""Real training steps on random weights, which a GPU measures at full size: here on tiny ones, on the CPU."""

import pytest
import torch

from scripts import measure_decoders, plan_decoders


@pytest.fixture
def sizes(tiny_components, folders):
    """Settings of a call on tiny components, and the decoders' folders by family."""
    decoders = {"2": tiny_components / "stable-diffusion", "xl": folders / "xl", "3": folders / "3"}
    named = f"decoder={','.join(map(str, decoders.values()))}"
    small = ["resolution=64", "encoder_resolution=128", "queries=12", f"florence2={tiny_components / 'florence2'}"]
    return [named, *small], decoders


def cells(printed):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:]]


@pytest.mark.parametrize("more", [["conditioning=text_encoder"], ["checkpointing=true", "conditioning=direct"]])
def test_each_family_takes_its_steps_and_is_measured(sizes, capsys, more):
    call, decoders = sizes
    measure_decoders.main([*call, "micro_batch=2", "steps=2", "device=cpu", *more])
    printed = capsys.readouterr()
    rows = cells(printed.out)
    assert [row[0] for row in rows] == [folder.name for folder in decoders.values()], printed.err
    direct = len(more) > 1
    for row in rows:
        assert row[1:5] == ["64", "direct" if direct else "text_encoder", "yes" if direct else "no", "2"]
        assert float(row[5]) >= 0  # some MiB
        assert row[6] == ""  # the CPU's memory is not measured
        assert float(row[7]) > 0


def test_a_decoder_that_does_not_fit_leaves_the_others_their_turn(sizes, capsys, monkeypatch):
    row = measure_decoders.row

    def full(folder, *arguments):
        if folder.name == "xl":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return row(folder, *arguments)

    monkeypatch.setattr(measure_decoders, "row", full)
    measure_decoders.main([*sizes[0], "micro_batch=1", "steps=2", "device=cpu", "conditioning=direct"])
    printed = capsys.readouterr()
    assert "xl: CUDA out of memory" in printed.err
    assert [row[0] for row in cells(printed.out)] == ["stable-diffusion", "3"]


def test_any_folder_is_planned_with_every_conditioning_that_it_has(sizes, capsys):
    plan_decoders.main([*sizes[0], "memory=24"])
    rows = cells(capsys.readouterr().out)
    assert [(row[0], row[2]) for row in rows] == [
        *(("stable-diffusion", kind) for kind in ("text_encoder", "direct")),
        *(("xl", kind) for kind in ("text_encoder", "direct")),
        *(("3", kind) for kind in ("text_encoder", "clip", "direct")),
    ]
    assert all(int(row[-1]) >= int(row[-2]) > 0 for row in rows)  # tiny models: more than one image fits


@pytest.mark.parametrize("command", [plan_decoders, measure_decoders])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("queries=78", "num_queries=78 cannot be used: give 1 to 77"),
        ("resolution=50", "decoder_resolution=50 is no multiple of 16"),
        ("conditioning=clip", "conditioning=clip leaves T5 out, and this decoder has none"),
        ("decoder=/nowhere", "/nowhere has no model_index.json"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(sizes, capsys, command, setting, message):
    more = [] if command is plan_decoders else ["device=cpu"]
    with pytest.raises(SystemExit) as ended:
        command.main([*sizes[0], *more, setting])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_plan_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        measure_decoders.main([])
    assert ended.value.code == 2
    assert "plan_decoders plans without one" in capsys.readouterr().err
