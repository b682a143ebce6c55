"""The 2048 features of InceptionV3 that FID and KID are defined over, by torch-fidelity's network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.evaluation.extractors.interface import Autoencoder, Extractor, FeatureExtractor

if TYPE_CHECKING:
    import torch

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # what torch-fidelity keeps in torch's hub cache
_COMMAND = "pip install -r requirements-inception.txt"


class Inception(Extractor):
    """InceptionV3, from a local file, from torch's hub cache, or downloaded into it."""

    name = "inception"

    def problem(self, weights_path: str | None, may_download: bool) -> str | None:
        """Why InceptionV3 cannot be used; see `Extractor.problem`."""
        if importlib.util.find_spec("torch_fidelity") is None:
            return f"extractor=inception needs torch-fidelity, which is not installed: {_COMMAND}"
        if weights_path is not None and not Path(weights_path).is_file():
            return f"inception_weights={weights_path} is not a file: give {INCEPTION_FILE} of torch-fidelity"
        if weights_path is None and not may_download:
            import torch

            if not (Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE).is_file():
                return (
                    f"InceptionV3's weights are not here: set inception_weights to {INCEPTION_FILE}, or "
                    "extractor=inception"
                )
        return None

    def build(self, autoencoder: Autoencoder, weights_path: str | None, device: torch.device | str) -> FeatureExtractor:
        """Load the network; see `Extractor.build`."""
        problem = self.problem(weights_path, may_download=True)
        if problem:
            raise ValueError(problem)
        from pickle import UnpicklingError

        import torch

        from vlv.evaluation.packages import require_torchmetrics

        require_torchmetrics()
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            if weights_path is not None:
                # torch-fidelity unpickles whatever it is given, code included; this refuses all but tensors first.
                torch.load(weights_path, weights_only=True, map_location="cpu")
            # The compat network is TensorFlow's of 2015, with its resizing and pooling: FID is defined over that one.
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights_path)
        except UnpicklingError:
            raise ValueError(f"inception_weights={weights_path} is no file of weights: give {INCEPTION_FILE}") from None
        except (OSError, RuntimeError, EOFError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"InceptionV3's weights cannot be had ({reason}): set inception_weights to {INCEPTION_FILE}"
            ) from None
        return FeatureExtractor(self.name, 299, device, network.to(device))
