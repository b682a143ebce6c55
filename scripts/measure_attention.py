"""How fast torch's attentions are on this CPU at the models' shapes: `vlv.attention` chooses by it. A Markdown table.

python -m scripts.measure_attention
python -m scripts.measure_attention rounds=9 json=attention.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from vlv.cli.entry import Call, parse
from vlv.settings import option, require

if TYPE_CHECKING:
    import torch


class Shape(NamedTuple):
    """Queries [batch, heads, queries, width] and keys [batch, heads, keys, width]."""

    batch: int
    heads: int
    queries: int
    keys: int
    width: int


SHAPES = {
    "SD 2.1's U-Net, first level at 384 px": Shape(1, 5, 2304, 2304, 64),
    "the same, to 77 rows of text": Shape(1, 5, 2304, 77, 64),
    "its second level": Shape(1, 10, 576, 576, 64),
    "Florence-2's encoder at 768 px": Shape(1, 16, 654, 654, 64),
    "its vision tower's windows, first stage": Shape(256, 8, 144, 144, 32),
    "CLIP's text encoder": Shape(1, 16, 77, 77, 64),
    "the small world's U-Net, 64 pictures": Shape(64, 4, 36, 36, 22),
}


@dataclass(frozen=True)
class AttentionMeasureConfig:
    """How often it is measured."""

    rounds: int = option(5, "times that each is measured, in turn; the table has the medians")
    json: str | None = option(None, "file for every measurement", path="local")

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "rounds", self.rounds, "give at least 1")


def main(arguments: list[str] | None = None) -> None:
    """Measure every shape and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(AttentionMeasureConfig, Call("python -m scripts.measure_attention", __doc__ or ""), given)
    from vlv.benchmarks.machine import describe_machine

    rows = [row for name, shape in SHAPES.items() for row in _measure(name, shape, config.rounds)]
    machine = describe_machine(["fp32", "bf16"])
    print(f"{machine.title}\n\n{table(rows)}")
    if config.json is not None:
        Path(config.json).write_text(json.dumps({"machine": asdict(machine), "rows": rows}, indent=2) + "\n")


def table(rows: list[dict[str, object]]) -> str:
    """What was measured, as Markdown: milliseconds of the forward pass alone, and of both passes."""
    ways = list(dict.fromkeys(str(row["way"]) for row in rows))
    found = {(row["shape"], row["way"]): (row["forward"], row["both"]) for row in rows}
    lines = [f"| forward / both passes, ms | {' | '.join(ways)} |", "| --- " * (len(ways) + 1) + "|"]
    for name in dict.fromkeys(str(row["shape"]) for row in rows):
        cells = [" / ".join(f"{median(times):.1f}" for times in found[name, way]) for way in ways]  # type: ignore[arg-type]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(name: str, shape: Shape, rounds: int) -> Iterator[dict[str, object]]:
    """A row of each way: milliseconds of each round."""
    import torch

    batch, heads, queries, keys, width = shape
    ways = {
        "fp32, plain": (torch.float32, False, False),
        "fp32, fused": (torch.float32, True, False),
        "bf16, plain as torch does it": (torch.bfloat16, False, False),
        "bf16, plain in bf16": (torch.bfloat16, False, True),
        "bf16, fused": (torch.bfloat16, True, False),
    }
    passes = {}
    for way, (dtype, fused, reduced) in ways.items():
        given = [
            torch.randn(batch, heads, length, width, dtype=dtype, requires_grad=True)
            for length in (queries, keys, keys)
        ]
        passes[way] = _passes(given, fused, reduced)
    times: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
    for number in range(rounds + 1):
        for way, (forward, both) in passes.items():
            found = _milliseconds(forward), _milliseconds(both)
            if number:  # the first warms up
                times[way][0].append(found[0])
                times[way][1].append(found[1])
    for way, (forward_times, both_times) in times.items():
        yield {"shape": name, "sizes": list(shape), "way": way, "forward": forward_times, "both": both_times}


def _passes(given: list[torch.Tensor], fused: bool, reduced: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward pass without a gradient, and both passes."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    kernel = SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH
    queries, keys, values = given

    def attend() -> torch.Tensor:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)
        with sdpa_kernel(kernel):
            return scaled_dot_product_attention(queries, keys, values)

    def both() -> None:
        states = attend()
        torch.autograd.grad(states, given, torch.ones_like(states))

    return torch.no_grad()(attend), both


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
