"""What a measure is: of two sets of features, of pairs of pictures, or of captions beside references.

Each measure is one file in `vlv/evaluation/measures` that ends with `MEASURE = ...`, one of the kinds below. It is
found there by itself (`vlv.evaluation.registry`), computed wherever its kind is at hand, and shown in metrics.json and
index.html with its meaning and its direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Legend(TypedDict):
    """How a measure is explained beside its values."""

    better: Literal["lower", "higher"]
    meaning: str
    minimum: int


@dataclass(frozen=True)
class Measure:
    """What every kind of measure has.

    name: its key in metrics.json.
    meaning: one line for readers who do not know it.
    better: whether lower or higher values are better.
    minimum: the least number of images (or captions) that it is defined for.
    """

    name: str
    meaning: str
    better: Literal["lower", "higher"]
    minimum: int = 1

    def legend(self) -> Legend:
        """How metrics.json explains the measure itself."""
        return {"better": self.better, "meaning": self.meaning, "minimum": self.minimum}


class SetValue(NamedTuple):
    """A value over a whole set, and its standard deviation over subsets where it was taken over several."""

    value: float
    subset_std: float | None = None


@dataclass(frozen=True)
class FeatureMeasure(Measure):
    """A measure of two sets of features, [n, D] each, whose rows i belong to one image.

    compute: takes the features of the originals and of the reconstructions.
    established: names by extractor where the combination has one of its own in the literature (InceptionV3's
        Frechet distance is `fid`); every other is called `<name>_<extractor>`, so that it is not mistaken for that.
    """

    compute: Callable[[Tensor, Tensor], SetValue] = field(kw_only=True)
    established: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def key(self, extractor: str) -> str:
        """The name in metrics.json over the features of `extractor`."""
        return self.established.get(extractor, f"{self.name}_{extractor}")


@dataclass(frozen=True)
class PairMeasure(Measure):
    """A measure of an image and its reconstruction; metrics.json has the mean over all pairs.

    compute: takes the original and the reconstruction, uint8 [3, R, R] each, on one device.
    """

    compute: Callable[[Tensor, Tensor], float] = field(kw_only=True)


@dataclass(frozen=True)
class CaptionMeasure(Measure):
    """A measure of captions beside references.

    compute: takes captions and references, one reference a caption.
    """

    compute: Callable[[Sequence[str], Sequence[str]], float] = field(kw_only=True)
