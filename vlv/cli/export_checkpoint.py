"""Write a checkpoint of this project back in the published layout, as one state dict.

SRC is a stage-1 folder or a captioner's folder; DST a .safetensors, .bin or .pt file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlv.cli.entry import BAD_CALL, stop


def main(arguments: list[str] | None = None) -> None:
    """Read the call and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m vlv.cli.export_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SRC")
    parser.add_argument("destination", type=Path, metavar="DST")
    parser.add_argument("--stable-diffusion", metavar="P", help="stage 1's Stable Diffusion, where it has moved")
    parser.add_argument("--florence2", metavar="P", help="stage 1's Florence-2, where it has moved")
    options = parser.parse_args(arguments)
    from vlv.cli.entry import quiet_libraries
    from vlv.published.export import export_checkpoint

    quiet_libraries()
    try:
        export = export_checkpoint(options.source, options.destination, options.stable_diffusion, options.florence2)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
        return
    print(f"written: {options.destination} ({export.stage}, {export.count:,} tensors)")
    print("lm_head of Florence-2 is a copy of its embedding, to which it is tied; final_logits_bias is left out")
    for line in export.left_out:
        print(f"not in the layout: {line}")


if __name__ == "__main__":
    main(sys.argv[1:])
