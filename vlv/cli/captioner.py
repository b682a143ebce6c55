"""A captioner for a command that stays up: checked in its folder, loaded, and moved to where it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, load_libraries, stop

if TYPE_CHECKING:
    from vlv.models.captioner import VLVCaptioner


def load_captioner(folder: str, precision: str, quantize: str | None = None, **bases: str | None) -> VLVCaptioner:
    """The captioner of a folder, on the GPU if there is one; a folder that cannot be used ends the command in one line.

    Args:
        precision: number format of the computation (see `resolve_precision`).
        quantize, bases: as of `vlv.models.load_captioner`.
    """
    # JSON alone: a wrong folder shows before the libraries are loaded.
    from vlv.checkpoints.schema import require_checkpoint

    try:
        require_checkpoint(folder, "stage2")
        load_libraries()
        import torch

        from vlv.models import loading
        from vlv.training.processes import resolve_precision, torch_dtype

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return loading.load_captioner(folder, torch_dtype(resolve_precision(precision)), device, quantize, **bases)
    except (ValueError, OSError) as error:
        stop(str(error), BAD_CALL)
