"""Which weight of a published checkpoint goes where in ours, checked against our model's own names and shapes."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vlv.checkpoints.external_state_dict import ExternalStateDict, open_state_dict
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.initial import fits
from vlv.published.key_mapping import Layout, place, recognise

_PUBLISHED = {
    "stage1": "stage 1 as published",
    "stage2": "captioner (stage 2) as published",
    "florence2": "Florence-2 in its original layout",
}
_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Skeleton:
    """Names and shapes of a model of ours; of tied weights one name counts and the others are aliases."""

    shapes: dict[str, tuple[int, ...]]
    aliases: dict[str, str]

    @classmethod
    def of(cls, module: nn.Module) -> Skeleton:
        """Read a module, which may be on the meta device."""
        shapes: dict[str, tuple[int, ...]] = {}
        aliases: dict[str, str] = {}
        first: dict[int, str] = {id(value): name for name, value in module.named_parameters()}
        # keep_vars: else each entry is a new tensor, and ties cannot be told by identity.
        for name, value in module.state_dict(keep_vars=True).items():
            original = first.get(id(value), name)
            if original == name:
                shapes[name] = tuple(value.shape)
            else:
                aliases[name] = original
        return cls(shapes, aliases)


@dataclass
class ImportPlan:
    """What becomes of every weight on both sides.

    mapped: our name -> key of the source. transposed: our names whose matrix is transposed. copies: key of the
    source -> our name of the weight that it must equal. dropped: key -> reason. grown: our name -> (source's rows,
    ours). absent: parts that the source does not have at all, taken from the base. missing: our other names that
    it does not have. unexpected: keys without a place. misshapen: our name -> (source's shape, ours).
    """

    mapped: dict[str, str] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    copies: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def tensor(self, source: ExternalStateDict, name: str) -> Tensor:
        """Our weight of that name, read from the source."""
        value = source[self.mapped[name]]
        return value.t().contiguous() if name in self.transposed else value

    def take_absent_parts(self, parts: dict[str, str]) -> None:
        """Let the base stand in for each part (name -> prefix of ours) of which the source has no weight at all."""
        for part, prefix in parts.items():
            if not any(name.startswith(prefix) for name in self.mapped):
                self.absent.append(part)
                self.missing = [name for name in self.missing if not name.startswith(prefix)]


def recognise_layout(source: ExternalStateDict) -> Layout:
    """What a state dict is, by its names.

    Raises:
        CheckpointError: nothing that can be imported.
    """
    layout = recognise(set(source.shapes))
    if layout is None:
        raise CheckpointError(f"{source.path} holds {len(source):,} weights and is no VLV checkpoint")
    return layout


def describe_published(path: Path) -> dict[str, str]:
    """Facts of a published file or folder, in reading order; its weights are not read.

    Raises:
        CheckpointError: nothing that can be imported.
    """
    source = open_state_dict(path)
    return {
        "kind": _PUBLISHED[recognise_layout(source)],
        "weights": f"{len(source):,}",
        "parameters": f"{sum(map(math.prod, source.shapes.values())):,}",
        "to use it": "vlv import converts it",
    }


def plan_import(source: dict[str, tuple[int, ...]], layout: Layout, skeleton: Skeleton) -> ImportPlan:
    """Place every key of a published checkpoint in the model that the skeleton describes.

    Args:
        source: shapes of the published checkpoint by key.
        layout: what it is.
        skeleton: our model of it.

    Raises:
        CheckpointError: two keys are the same weight.
    """
    plan = ImportPlan()
    for key, shape in source.items():
        placement = place(key, layout)
        if placement is None:
            plan.unexpected.append(key)
        elif placement.reason is not None:
            plan.dropped[key] = placement.reason
        elif placement.alias_of is not None:
            plan.copies[key] = placement.alias_of
        elif placement.name in skeleton.aliases:  # a language model's head that is tied to its embedding
            plan.copies[key] = skeleton.aliases[placement.name]
        elif placement.name not in skeleton.shapes:
            plan.unexpected.append(key)
        else:
            assert placement.name is not None
            _map(plan, placement.name, key, shape[::-1] if placement.transposed else shape, skeleton)
            if placement.transposed:
                plan.transposed.add(placement.name)
    plan.missing = [name for name in skeleton.shapes if name not in plan.mapped]
    return plan


def _map(plan: ImportPlan, name: str, key: str, theirs: tuple[int, ...], skeleton: Skeleton) -> None:
    if name in plan.mapped:
        raise CheckpointError(
            f"{plan.mapped[name]} and {key} are one weight in VLV, {name}: keep one of them in the file"
        )
    plan.mapped[name] = key
    ours = skeleton.shapes[name]
    if not fits(name, theirs, ours):
        plan.misshapen[name] = (theirs, ours)
    elif theirs != ours:
        plan.grown[name] = (theirs[0], ours[0])


def accept(plan: ImportPlan, source: ExternalStateDict, allow: Iterable[str]) -> None:
    """Refuse a plan with weights of another shape or number format, that are missing, unexpected, or no true copies.

    In that order: where a base is of another size, names are missing too, and `allow` would not help.

    Args:
        allow: patterns of missing or unexpected names that are accepted.

    Raises:
        CheckpointError: names the first of them, and how to accept it.
    """
    for name, (theirs, ours) in plan.misshapen.items():
        raise CheckpointError(
            f"{source.path}: {plan.mapped[name]} has shape {theirs}, and {ours} is wanted: the base, or the "
            "folder's own config, is of another size"
        )
    _require_one_format(source, list(plan.mapped.values()))
    patterns = list(allow)
    for kind, names in (("missing", plan.missing), ("unexpected", plan.unexpected)):
        left = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
        if left:
            raise CheckpointError(
                f"{source.path}: {len(left)} weights are {kind}, the first is {left[0]}; "
                f"allow='{left[0]}' (patterns may be given) imports without"
            )
    for key, name in plan.copies.items():
        # `allow` may have left out the weight that it is tied to.
        if name in plan.mapped and not torch.equal(source[key], source[plan.mapped[name]]):
            raise CheckpointError(f"{source.path}: {key} differs from {plan.mapped[name]}, to which it is tied in VLV")


def _require_one_format(source: ExternalStateDict, keys: list[str]) -> None:
    """Refuse weights that are no floating-point numbers, or not all of one format.

    A quantised or half-converted file would load without an error, each tensor cast by itself, and caption badly.
    """
    formats: dict[torch.dtype | str, list[str]] = {}
    for key in keys:
        formats.setdefault(source.dtypes[key], []).append(key)
    other = next((dtype for dtype in formats if dtype not in _FLOATING), None)
    if other is not None:
        raise CheckpointError(
            f"{source.path}: {formats[other][0]} is of {_name(other)}, and {', '.join(map(_name, _FLOATING))} are "
            "taken: save the checkpoint before it was quantised"
        )
    if len(formats) > 1:
        listed = ", ".join(
            f"{len(names):,} {_name(dtype)} (the first is {names[0]})" for dtype, names in formats.items()
        )
        raise CheckpointError(f"{source.path} holds weights of several formats, {listed}: save all of them in one")


def _name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def table(plan: ImportPlan) -> Iterator[str]:
    """A line for each group of weights: what becomes of them."""
    yield f"{'mapped':<12}{len(plan.mapped):>6}"
    yield from (
        f"    {name}: {theirs:,} rows from the file, {ours - theirs:,} from the base"
        for name, (theirs, ours) in plan.grown.items()
    )
    yield f"{'tied copies':<12}{len(plan.copies):>6}"
    yield f"{'dropped':<12}{len(plan.dropped):>6}"
    yield from (f"    {key}: {reason}" for key, reason in plan.dropped.items())
    yield from (f"{part}: not in the file, the base's is used" for part in plan.absent)
    for title, names in (("missing", plan.missing), ("unexpected", plan.unexpected)):
        yield f"{title:<12}{len(names):>6}"
        yield from (f"    {name}" for name in names)
    if plan.misshapen:
        yield f"{'misshapen':<12}{len(plan.misshapen):>6}"
    for name, (theirs, ours) in plan.misshapen.items():
        yield f"    {plan.mapped[name]}: {theirs} in the file, {ours} in the model"
