"""The machines of a call: how many, which of them this is, and where the first one listens.

Each machine gets the same call, and these in its environment, as a batch script sets them: NUM_MACHINES, MACHINE_RANK,
MAIN_PROCESS_IP, MAIN_PROCESS_PORT. Where they are silent, the Accelerate YAML speaks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vlv.config import ConfigError

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Machines:
    """Several machines of one run, or one.

    rank: of this machine; the first, 0, listens at `address` and `port` for the others.
    address: None where there is one machine.
    """

    count: int = 1
    rank: int = 0
    address: str | None = None
    port: int = DEFAULT_PORT


def read_machines(settings: dict[str, object], num_processes: int) -> Machines:
    """The machines of this call.

    Args:
        settings: of the Accelerate YAML.
        num_processes: of all machines together.

    Raises:
        ConfigError: a value cannot be used, is missing, or does not go with the others; names it.
    """
    count = count_machines(settings)
    rank = _number("MACHINE_RANK", settings.get("machine_rank"), 0)
    port = _number("MAIN_PROCESS_PORT", settings.get("main_process_port"), DEFAULT_PORT)
    address = os.environ.get("MAIN_PROCESS_IP") or str(settings.get("main_process_ip") or "")
    if not 0 <= rank < count:
        raise ConfigError(
            f"MACHINE_RANK={rank} is none of NUM_MACHINES={count}: give each machine a rank of its own from 0 on, and "
            "all of them their number"
        )
    if count == 1:  # an address that a batch script sets for one machine too says nothing
        return Machines()
    if not address:
        raise ConfigError(
            f"NUM_MACHINES={count} without MAIN_PROCESS_IP: give every machine the address of the machine of rank 0"
        )
    if not 0 < port < 2**16:
        raise ConfigError(f"MAIN_PROCESS_PORT={port} is no port: give 1 to 65535")
    if num_processes % count:
        raise ConfigError(
            f"num_gpus={num_processes} over NUM_MACHINES={count} is no whole number for each: num_gpus counts the "
            "processes of all machines"
        )
    return Machines(count, rank, address, port)


def count_machines(settings: dict[str, object]) -> int:
    """How many machines run together.

    Raises:
        ConfigError: no number, or less than 1.
    """
    count = _number("NUM_MACHINES", settings.get("num_machines"), 1)
    if count < 1:
        raise ConfigError(f"NUM_MACHINES={count} cannot be used: give the number of machines")
    return count


def _number(variable: str, otherwise: object, default: int) -> int:
    value = os.environ.get(variable) or otherwise  # an empty variable is none
    try:
        return default if value is None else int(str(value))
    except ValueError:
        raise ConfigError(f"{variable}={value} is no whole number") from None
