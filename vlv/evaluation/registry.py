"""The measures that there are: every module of `vlv.evaluation.measures`, found by looking there."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TypeVar

from vlv.evaluation import measures
from vlv.evaluation.interface import CaptionMeasure, FeatureMeasure, Measure, PairMeasure

Kind = TypeVar("Kind", bound=Measure)


def feature_measures() -> list[FeatureMeasure]:
    """The measures of two sets of features, by name of their files."""
    return _of_kind(FeatureMeasure)


def pair_measures() -> list[PairMeasure]:
    """The measures of pairs of pictures, by name of their files."""
    return _of_kind(PairMeasure)


def caption_measures() -> list[CaptionMeasure]:
    """The measures of captions, by name of their files."""
    return _of_kind(CaptionMeasure)


def _of_kind(kind: type[Kind]) -> list[Kind]:
    # Looked up at each call and not once at import: a plugin may extend the package's path meanwhile.
    names = sorted(module.name for module in pkgutil.iter_modules(measures.__path__))
    found = [import_module(f"{measures.__name__}.{name}").MEASURE for name in names]
    return [measure for measure in found if isinstance(measure, kind)]
