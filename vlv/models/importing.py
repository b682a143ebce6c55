"""Which weight of a published checkpoint goes where in ours, checked against our model's own names and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vlv.identity import CheckpointError
from vlv.models.foreign import ForeignWeights
from vlv.models.reference import Stage, place

_GROWING = "encoder.florence2.language_model.shared.weight"  # the hub's native model has padded rows


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
    source -> our name of the weight that it must equal. dropped: key -> reason. missing: our names that the
    source does not have. unexpected: keys without a place. misshapen: our name -> (source's shape, ours).
    """

    mapped: dict[str, str] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    copies: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def tensor(self, source: ForeignWeights, name: str) -> Tensor:
        """Our weight of that name, read from the source."""
        value = source[self.mapped[name]]
        return value.t().contiguous() if name in self.transposed else value


def plan_import(source: dict[str, tuple[int, ...]], stage: Stage, skeleton: Skeleton) -> ImportPlan:
    """Place every key of a published checkpoint in the model that the skeleton describes.

    Args:
        source: shapes of the published checkpoint by key.
        stage: whose layout it has.
        skeleton: our model of that stage.
    """
    plan = ImportPlan()
    for key, shape in source.items():
        placement = place(key, stage)
        if placement is None:
            plan.unexpected.append(key)
        elif placement.reason is not None:
            plan.dropped[key] = placement.reason
        elif placement.alias_of is not None:
            plan.copies[key] = placement.alias_of
        elif placement.name in skeleton.aliases:
            plan.copies[key] = skeleton.aliases[placement.name]
        elif placement.name not in skeleton.shapes:
            plan.unexpected.append(key)
        else:
            assert placement.name is not None
            plan.mapped[placement.name] = key
            if placement.transposed:
                plan.transposed.add(placement.name)
                shape = shape[::-1]
            if not _fits(placement.name, shape, skeleton.shapes[placement.name]):
                plan.misshapen[placement.name] = (shape, skeleton.shapes[placement.name])
    plan.missing = [name for name in skeleton.shapes if name not in plan.mapped]
    return plan


def check_copies(plan: ImportPlan, source: ForeignWeights) -> None:
    """Check that tied copies in the source are equal to what they copy.

    Raises:
        CheckpointError: one is not; names both.
    """
    for key, name in plan.copies.items():
        if name in plan.mapped and not torch.equal(source[key], source[plan.mapped[name]]):
            raise CheckpointError(f"{source.path}: {key} differs from {plan.mapped[name]}, to which it is tied in VLV")


def table(plan: ImportPlan) -> Iterator[str]:
    """The lines that tell what becomes of the weights."""
    yield f"{'mapped':<12}{len(plan.mapped):>6}"
    yield f"{'tied copies':<12}{len(plan.copies):>6}"
    yield f"{'dropped':<12}{len(plan.dropped):>6}"
    yield from (f"    {key}: {reason}" for key, reason in plan.dropped.items())
    for title, names in (("missing", plan.missing), ("unexpected", plan.unexpected)):
        yield f"{title:<12}{len(names):>6}"
        yield from (f"    {name}" for name in names[:20])
        if len(names) > 20:
            yield f"    and {len(names) - 20} more"
    for name, (theirs, ours) in plan.misshapen.items():
        yield f"    {name}: {theirs} in the file, {ours} in the model"


def _fits(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    if name == _GROWING:
        return theirs[1:] == ours[1:] and theirs[0] <= ours[0]
    return theirs == ours
