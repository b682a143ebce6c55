"""Whether torchmetrics' image metrics work here; they fail to load beside a torchvision of another torch."""

from __future__ import annotations

import importlib.util


def require_torchmetrics() -> None:
    """Check that the image metrics of torchmetrics can be imported; takes seconds the first time.

    Raises:
        ValueError: they cannot, as happens where torch-fidelity is installed and torchvision does not work.
    """
    try:
        import torchmetrics.image.fid  # noqa: F401
    # A RuntimeError is torchvision's: its operators do not register in another torch than its own.
    except (ImportError, RuntimeError) as error:
        culprit = "torch-fidelity" if importlib.util.find_spec("torch_fidelity") else "torchmetrics"
        raise ValueError(
            f"{culprit} is installed but does not work here ({error}): install a torchvision that fits torch, or "
            f"pip uninstall {culprit}"
        ) from None
