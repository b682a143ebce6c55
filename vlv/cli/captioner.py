"""A captioner for a command that stays up: checked in its folder, loaded, and moved to where it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, load_libraries, stop

if TYPE_CHECKING:
    from vlv.models.captioner import VLVCaptioner


def load_captioner(folder: str, precision: str, quantize: str | None = None, **bases: str | None) -> VLVCaptioner:
    """The captioner of a folder, on the GPU if there is one; a folder that cannot be used ends the command in one line.

    Args:
        precision: number format of the computation (see `settle_precision`).
        quantize, bases: as of `vlv.models.load_captioner`.
    """
    # JSON alone: a wrong folder shows before the libraries are loaded.
    from vlv.checkpoints.origin import find_adapter_bases
    from vlv.checkpoints.schema import require_checkpoint

    try:
        find_adapter_bases(require_checkpoint(folder, "stage2"), bases)
        load_libraries()
        import torch

        from vlv.models import loading
        from vlv.recipes.precision import settle_precision
        from vlv.training.precision import torch_dtype

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch_dtype(settle_precision(precision, folder, "ckpt_dir").precision)
        return loading.load_captioner(folder, dtype, device, quantize, **bases)
    except (ValueError, OSError) as error:
        stop(str(error), BAD_CALL)
