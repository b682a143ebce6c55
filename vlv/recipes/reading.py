"""How a command of inference reads its images."""

from __future__ import annotations

from vlv.config import InferenceConfig
from vlv.inference.images import ReadSettings
from vlv.training.processes import loader_workers


def read_settings(config: InferenceConfig) -> ReadSettings:
    """What the settings of a command say of it, for each of its processes."""
    workers = loader_workers(config.num_workers)
    return ReadSettings(config.batch_size, workers, config.decode_settings(), config.loader_timeout)
