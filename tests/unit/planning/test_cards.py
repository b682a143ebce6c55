import pytest

from scripts.plan_training import main
from vlv.planning.cards import CARDS, TrainingPlanConfig, rows
from vlv.planning.decoders import Cost

COST = Cost(frozen=10**9, trained=10**8, forward=2.0, backward=1.0, fixed=10.0, image=2.0, image_again=0.5)


def by_card(cost, **settings):
    return {row[1]: row[2:] for row in rows("a", cost, TrainingPlanConfig(**settings))}


def test_speed_and_hours_are_arithmetic():
    table = by_card(COST, images=3.6e6, cards=2, utilisation=0.5)
    # 0.5 x 312 TFLOP/s over 3 TFLOP an image; 3.6 million images on two cards.
    assert table["A100 80 GB"] == ["`max_micro_batch=28`", "52", "10", "19", "29"]  # 19.2 hours of 1.50 $
    assert by_card(COST, images=3.6e6, cards=2, utilisation=0.5, price=10)["A100 80 GB"][-1] == "192"
    assert table.keys() == CARDS.keys()


def test_where_few_fit_activations_are_computed_again():
    small = by_card(COST)["RTX 4090"]
    assert small[0] == "`max_micro_batch=5`"
    tight = by_card(Cost(10**9, 10**8, 2.0, 1.0, 18.0, 2.0, 0.5))["RTX 4090"]
    assert tight[0] == "`max_micro_batch=4 gradient_checkpointing=true`"
    assert float(tight[1]) == pytest.approx(0.4 * 165 / 5, abs=0.5)


def test_where_nothing_fits_the_row_says_what_to_do():
    row = by_card(Cost(10**9, 10**8, 2.0, 1.0, 24.0, 2.0, 0.5))["RTX 4090"]
    assert row[0].startswith("none fit")
    assert "fsdp" in row[0]


def test_the_command_prints_a_table(capsys):
    main(["stable-diffusion-2-1-base", "conditioning=direct", "cards=1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| decoder | card | settings |")
    assert len(lines) == 2 + len(CARDS)
    assert all(line.startswith("| stable-diffusion-2-1-base, direct | ") for line in lines[2:])


def test_bad_settings_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["utilisation=1.5"])
    assert stopped.value.code == 2
    assert "utilisation=1.5 cannot be used: give a share above 0, up to 1" in capsys.readouterr().err
