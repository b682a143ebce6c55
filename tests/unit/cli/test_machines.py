"""What a call says about its machines is honoured or refused."""

import pytest

from vlv.cli.machines import Machines, read_machines
from vlv.config import ConfigError


def set_all(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_one_machine_is_the_default():
    assert read_machines({}, 8) == Machines()
    assert read_machines({"num_machines": 1, "machine_rank": 0, "main_process_port": None}, 8) == Machines()


def test_the_environment_comes_before_the_yaml(monkeypatch):
    set_all(monkeypatch, NUM_MACHINES="4", MACHINE_RANK="3", MAIN_PROCESS_IP="node0")
    settings = {"num_machines": 2, "machine_rank": 0, "main_process_port": 29501}
    assert read_machines(settings, 32) == Machines(4, 3, "node0", 29501)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"NUM_MACHINES": "two"}, "NUM_MACHINES=two is no whole number"),
        ({"NUM_MACHINES": "0"}, "NUM_MACHINES=0 cannot be used"),
        ({"MACHINE_RANK": "1"}, "MACHINE_RANK=1 is none of NUM_MACHINES=1"),
        ({"NUM_MACHINES": "2", "MACHINE_RANK": "2"}, "MACHINE_RANK=2 is none of NUM_MACHINES=2"),
        ({"NUM_MACHINES": "2"}, "NUM_MACHINES=2 without MAIN_PROCESS_IP"),
        ({"NUM_MACHINES": "2", "MAIN_PROCESS_IP": "a", "MAIN_PROCESS_PORT": "70000"}, "is no port"),
        ({"NUM_MACHINES": "3", "MAIN_PROCESS_IP": "a"}, "num_gpus=8 over NUM_MACHINES=3 is no whole number for each"),
    ],
)
def test_what_cannot_be_honoured_is_refused(monkeypatch, values, words):
    set_all(monkeypatch, **values)
    with pytest.raises(ConfigError, match=words):
        read_machines({}, 8)
