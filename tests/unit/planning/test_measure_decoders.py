"""Real training steps on random weights, which a GPU measures at full size: here on tiny ones, on the CPU."""

import pytest
import torch

from vlv.planning import decoders as plan_decoders
from vlv.planning import measure as measure_decoders


@pytest.fixture
def tiny_sizes(tiny_components, folders, tmp_path, monkeypatch):
    names = {
        "stable-diffusion-2-1-base": tiny_components / "stable-diffusion",
        "stable-diffusion-xl-base-1.0": folders / "xl",
        "stable-diffusion-3.5-medium": folders / "3",
        "Florence-2-large": tiny_components / "florence2",
    }
    for name, folder in names.items():
        (tmp_path / name).symlink_to(folder)
    monkeypatch.setattr(plan_decoders, "COMPONENTS", tmp_path)
    monkeypatch.setattr(plan_decoders, "PROMPT_IDS", [0, 5, 2])
    monkeypatch.setattr(plan_decoders, "ENCODER_RESOLUTION", 128)


@pytest.mark.parametrize("more", [[], ["--checkpointing", "--conditioning", "direct"]])
def test_each_family_takes_its_steps_and_is_measured(tiny_sizes, capsys, more):
    names = ["stable-diffusion-2-1-base", "stable-diffusion-xl-base-1.0", "stable-diffusion-3.5-medium"]
    options = ["--resolution", "64", "--micro-batch", "2", "--steps", "2", "--device", "cpu", *more]
    measure_decoders.main([*options, *(word for name in names for word in ("--decoder", name))])
    printed = capsys.readouterr()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.out.splitlines()[2:]]
    assert [cells[0] for cells in rows] == names, printed.err
    for cells in rows:
        assert cells[1:5] == ["64", "direct" if more else "text_encoder", "yes" if more else "no", "2"]
        assert float(cells[5]) >= 0  # some MiB
        assert cells[6] == ""  # the CPU's memory is not measured
        assert float(cells[7]) > 0


def test_a_decoder_that_does_not_fit_leaves_the_others_their_turn(tiny_sizes, capsys, monkeypatch):
    measure = measure_decoders.measure

    def full(model, *arguments):
        if hasattr(model.decoder, "transformer"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(model, *arguments)

    monkeypatch.setattr(measure_decoders, "measure", full)
    decoders = ["--decoder", "stable-diffusion-3.5-medium", "--decoder", "stable-diffusion-2-1-base"]
    measure_decoders.main([*decoders, "--resolution", "64", "--micro-batch", "1", "--steps", "2", "--device", "cpu"])
    printed = capsys.readouterr()
    assert "stable-diffusion-3.5-medium: CUDA out of memory" in printed.err
    assert len(printed.out.splitlines()) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_plan_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        measure_decoders.main([])
    assert ended.value.code == 2
    assert "vlv.planning.decoders plans without one" in capsys.readouterr().err
