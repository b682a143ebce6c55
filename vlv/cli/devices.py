"""Whether this machine has the devices that a call asks for."""

from __future__ import annotations

import importlib.util

from vlv.cli.machines import count_machines
from vlv.config import ConfigError
from vlv.recipes.accelerate_config import read_accelerate_config


def check_devices(num_gpus: int, accelerate_config: str | None, precision: str = "auto") -> bool:
    """Whether several processes run on the CPU; of one that runs alone only fp16 is checked, as it looks for itself.

    Raises:
        ConfigError: more GPUs are asked for than there are (names the number that fits), or fp16 on the CPU.
        ModuleNotFoundError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    if precision != "fp16" and runs_alone(num_gpus, accelerate_config):
        return False  # torch, which knows of GPUs, is not imported for it: that takes a second
    on_cpu = _run_on_cpu(num_gpus, accelerate_config)
    if on_cpu and precision == "fp16":
        raise ConfigError("precision=fp16 needs a GPU: set precision=bf16 or fp32")
    return on_cpu


def runs_alone(num_gpus: int, accelerate_config: str | None) -> bool:
    """Whether the run is one process, which needs no launcher of Accelerate's or torch's."""
    return num_gpus == 1 and not read_accelerate_config(accelerate_config)


def _run_on_cpu(num_gpus: int, accelerate_config: str | None) -> bool:
    settings = read_accelerate_config(accelerate_config)
    if settings.get("use_cpu") or settings.get("distributed_type") == "MULTI_CPU":
        return True
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = num_gpus // count_machines(settings)  # torch counts those of this one
    if here == 0 and num_gpus == 1 and not settings:
        return True
    if here == 0 and num_gpus == 1:
        raise ConfigError(
            f"accelerate_config={accelerate_config} is for GPUs and this machine has none: leave it out, or set "
            f"accelerate_config=configs/accelerate/cpu.yaml"
        )
    if here == 0:
        raise ConfigError(
            f"num_gpus={num_gpus} but this machine has no GPU: num_gpus=1 runs on the CPU, and with "
            f"accelerate_config=configs/accelerate/cpu.yaml num_gpus is the number of CPU processes"
        )
    if wanted > here:
        raise ConfigError(f"num_gpus={num_gpus} but {here} GPUs are here: set num_gpus={here}")
    return False


def require_deepspeed(accelerate_config: str | None) -> None:
    """Check that DeepSpeed is installed where the Accelerate YAML asks for it.

    Raises:
        ConfigError: it is not.
    """
    wanted = read_accelerate_config(accelerate_config).get("distributed_type") == "DEEPSPEED"
    if wanted and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(f"accelerate_config={accelerate_config} needs DeepSpeed: pip install deepspeed")
