"""The exact reader of the small world's pictures: picture -> scene, and what of the picture no scene explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from operator import le

import numpy as np
from PIL import Image

from vlv.shapes.render import ANGLE_JITTER, CELL, EXTENT, PLACE_JITTER, RESOLUTION, SIZE_JITTER, draw_mask
from vlv.shapes.scene import BACKGROUNDS, COLORS, GRID, SHAPES, TEXTURES, Item, Scene

# Squared difference from the background, summed over a cell, that a shape explains at least.
_EMPTY = 70_000.0
# Bounds of a clean picture: what 95 % of the items keep below, and all pictures but a few, that pass the VAE and come
# back. Of thin lines it leaves more, for they have few pixels.
MAX_UNEXPLAINED = {"solid": 0.06, "striped": 0.06, "outlined": 0.22}
MAX_STRAY = 25.0
_KINDS = [(size, texture, shape) for size in EXTENT for texture in TEXTURES for shape in SHAPES]
_FINE_STEPS = (SIZE_JITTER, ANGLE_JITTER / 2, PLACE_JITTER / 2, PLACE_JITTER / 2)
_CLOSE = 0.93  # of the best fit's gain: as good as it, until all of them are polished
_REFINED = 6  # pairs of kind and colour that are fitted again, finely


@dataclass(frozen=True)
class Reading:
    """What the oracle saw.

    confidence: of the least certain cell, from 0 (another class fits as well) to 1.
    unexplained: of each item in turn, the share of its cell's squared difference from the ground that the item leaves
        over: a piece that is missing, another colour inside, something beside it.
    stray: of the picture outside the items, the largest mean over 3x3 pixels of what stands off the ground, in levels
        of 255.
    """

    scene: Scene
    confidence: float
    unexplained: tuple[float, ...]
    stray: float

    @property
    def clean(self) -> bool:
        """The scene explains the picture: nothing is left over beyond `MAX_UNEXPLAINED` and `MAX_STRAY`."""
        bounds = [MAX_UNEXPLAINED[item.texture] for item in self.scene.items]
        return self.stray <= MAX_STRAY and all(map(le, self.unexplained, bounds))


@dataclass(frozen=True)
class _Fit:
    """One kind in one colour, in the pose (see `_fine_variants`) that fits a cell best.

    gain: what it explains. coverage: [CELL, CELL].
    """

    gain: float
    color: int
    kind: int
    pose: tuple[float, ...]
    coverage: np.ndarray


@dataclass(frozen=True)
class Templates:
    """Shapes in K variants of size, place and angle: coverages [kinds, K, P], 0 to 1; their squared sums [kinds K]."""

    coverages: np.ndarray
    energies: np.ndarray


def read_pictures(pictures: Sequence[Image.Image], batch_size: int = 100) -> list[Reading]:
    """Scenes of pictures; each is resized to `RESOLUTION` where it is another size."""
    readings: list[Reading] = []
    for start in range(0, len(pictures), batch_size):
        readings += _read(np.stack([pixels_of(picture) for picture in pictures[start : start + batch_size]]))
    return readings


def pixels_of(picture: Image.Image) -> np.ndarray:
    """fp32 [R, R, 3] in 0 to 255."""
    picture = picture.convert("RGB")
    if picture.size != (RESOLUTION, RESOLUTION):
        picture = picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


def _read(pixels: np.ndarray) -> list[Reading]:
    """Fit every colour and template to every cell of pixels [N, R, R, 3] by least squares."""
    count = len(pixels)
    grounds = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
    # The ground covers most of every picture, so the one with most pixels near it is right, shapes and noise or not.
    near = np.abs(pixels[:, :, :, None] - grounds).sum(-1) < 90  # [N, R, R, 4]
    chosen = near.sum((1, 2)).argmax(1)  # [N]
    off_ground = pixels - grounds[chosen][:, None, None]
    cells = off_ground.reshape(count, GRID, CELL, GRID, CELL, 3).swapaxes(2, 3).reshape(count * GRID**2, CELL**2, 3)
    occupied = np.flatnonzero((cells**2).sum((1, 2)) > _EMPTY)
    contrasts = np.array(list(COLORS.values()), dtype=np.float32) - grounds[chosen][:, None]  # [N, colours, 3]
    contrasts = contrasts.repeat(GRID**2, axis=0)[occupied]  # [M, colours, 3]
    coarse = _gains(cells[occupied], contrasts, _coarse_templates()).max(-1)  # [M, colours, kinds]
    found = {int(cell): _refine(cells[cell], contrasts[index], coarse[index]) for index, cell in enumerate(occupied)}
    readings = []
    for index in range(count):
        first = index * GRID**2
        fits = {cell: found[first + cell] for cell in range(GRID**2) if first + cell in found}
        readings.append(_decide(off_ground[index], fits, list(BACKGROUNDS)[chosen[index]]))
    return readings


def _gains(cells: np.ndarray, contrasts: np.ndarray, templates: Templates) -> np.ndarray:
    """How much of cells [M, P, 3] each colour [M, colours, 3], kind and variant explains; [M, colours, kinds, K].

    A template t in a colour that stands off the ground by c predicts the pixels t c. It explains
    |x|^2 - |x - t c|^2 = 2 <x, t c> - |t|^2 |c|^2 of the cell's pixels x.
    """
    kinds, variants, area = templates.coverages.shape
    projected = np.einsum("mpc,mkc->mkp", cells, contrasts)  # [M, colours, P]
    gains = 2 * (projected @ templates.coverages.reshape(-1, area).T)
    gains -= (contrasts**2).sum(-1)[..., None] * templates.energies
    return gains.reshape(*gains.shape[:2], kinds, variants)


def _refine(cell: np.ndarray, contrasts: np.ndarray, coarse: np.ndarray) -> list[_Fit]:
    """The best pairs of colour and kind of one cell [P, 3], fitted finely, best first."""
    fits = []
    for place in np.argsort(coarse, axis=None)[::-1][:_REFINED]:
        color, kind = divmod(int(place), len(_KINDS))
        templates = _fine_templates(kind)
        gains = _gains(cell[None], contrasts[None, color : color + 1], templates).ravel()
        best = int(gains.argmax())
        coverage = templates.coverages[0, best].reshape(CELL, CELL)
        fits.append(_Fit(float(gains[best]), color, kind, _fine_variants()[best], coverage))
    fits.sort(key=lambda fit: -fit.gain)
    # Those that are close may change places: what a thin line explains depends on half a step.
    close = sum(fit.gain > _CLOSE * fits[0].gain for fit in fits)
    polished = [_recolor(cell, contrasts, _polish(cell, contrasts[fit.color], fit)) for fit in fits[:close]]
    best = {(fit.color, fit.kind): fit for fit in sorted([*fits, *polished], key=lambda fit: fit.gain)}
    return sorted(best.values(), key=lambda fit: -fit.gain)


def _recolor(cell: np.ndarray, contrasts: np.ndarray, fit: _Fit) -> _Fit:
    """The same shape in the colour that is nearest to its pixels' own, where that explains more.

    A thin line that templates miss by half a pixel is best explained in a colour nearer to the ground than its own.
    """
    weights = fit.coverage.ravel()
    own = weights @ cell / (weights @ weights)  # [3], by least squares
    color = int(((contrasts - own) ** 2).sum(1).argmin())
    if color == fit.color:
        return fit
    gain = float(2 * weights @ (cell @ contrasts[color]) - weights @ weights * (contrasts[color] ** 2).sum())
    other = _polish(cell, contrasts[color], replace(fit, color=color, gain=gain))
    return max(fit, other, key=lambda fit: fit.gain)


def _polish(cell: np.ndarray, contrast: np.ndarray, fit: _Fit) -> _Fit:
    """The same kind and colour, its size, angle and place improved between the templates'.

    What the templates' grid misses would otherwise count as unexplained. Each number in turn is moved by half a step.

    Args:
        cell: [P, 3], less the ground, from which the colour stands off by `contrast` [3].
    """
    size, texture, shape = _KINDS[fit.kind]
    projected, energy = (cell @ contrast).reshape(CELL, CELL), float(contrast @ contrast)
    for steps in np.outer((0.5, 0.25, 0.125), _FINE_STEPS):
        for number, sign in product(range(len(steps)), (-1, 1)):
            pose = list(fit.pose)
            pose[number] += sign * steps[number]
            mask = draw_mask(shape, texture, EXTENT[size] * pose[0], *pose[1:])
            coverage = np.asarray(mask, dtype=np.float32) / 255
            gain = float((2 * coverage * projected - coverage**2 * energy).sum())
            if gain > fit.gain:
                fit = replace(fit, gain=gain, pose=tuple(pose), coverage=coverage)
    return fit


def _decide(off_ground: np.ndarray, fits: dict[int, list[_Fit]], background: str) -> Reading:
    """The scene of one picture [R, R, 3], less its ground, and what the scene leaves over.

    Args:
        fits: of each cell that is not empty.
    """
    items, unexplained, confidence = [], [], 1.0
    left, near = off_ground.copy(), np.zeros((RESOLUTION + 4, RESOLUTION + 4), dtype=bool)
    for cell, (first, second, *_) in fits.items():
        row, column = divmod(cell, GRID)
        if first.gain < _EMPTY:
            confidence = min(confidence, max(0.0, 1 - first.gain / _EMPTY))
            continue
        size, texture, shape = _KINDS[first.kind]
        items.append(Item(row, column, size, texture, list(COLORS)[first.color], shape))
        # A lead of a tenth over the next kind counts as certain.
        lead = (first.gain - max(second.gain, _EMPTY)) / first.gain * 10
        confidence = min(confidence, float(np.clip(lead, 0, 1)))
        area = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        energy = float((left[area] ** 2).sum())
        contrast = np.subtract(COLORS[items[-1].color], BACKGROUNDS[background])
        left[area] -= first.coverage[..., None] * contrast
        unexplained.append(float((left[area] ** 2).sum()) / energy)
        for dy, dx in product(range(5), repeat=2):  # up to two pixels around the shape
            near[dy : dy + RESOLUTION, dx : dx + RESOLUTION][area] |= first.coverage > 0
    return Reading(Scene(tuple(items), background), confidence, tuple(unexplained), _stray(left, near[2:-2, 2:-2]))


def _stray(left: np.ndarray, near: np.ndarray) -> float:
    """The largest 3x3 mean of what is left of a picture [R, R, 3], outside a mask [R, R]."""
    deviations = np.pad(np.abs(left).max(-1), 1)
    means = np.lib.stride_tricks.sliding_window_view(deviations, (3, 3)).mean((2, 3))
    return float(means[~near].max(initial=0.0))


@cache
def _coarse_templates() -> Templates:
    """Every kind at few places and angles."""
    return _templates(range(len(_KINDS)), list(product((1.0,), (-8.0, 0.0, 8.0), (-0.7, 0.7), (-0.7, 0.7))))


@cache
def _fine_templates(kind: int) -> Templates:
    """One kind in all `_fine_variants`."""
    return _templates((kind,), _fine_variants())


@cache
def _fine_variants() -> list[tuple[float, float, float, float]]:
    """Many sizes, angles and places: (share of the size, degrees, pixels, pixels)."""
    scales, angles, x, y = (
        [centre + step * number for number in range(-count, count + 1)]
        for centre, step, count in zip((1.0, 0.0, 0.0, 0.0), _FINE_STEPS, (1, 2, 2, 2), strict=True)
    )
    return list(product(scales, angles, x, y))


def _templates(kinds: Sequence[int], variants: Sequence[tuple[float, float, float, float]]) -> Templates:
    masks = []
    for size, texture, shape in (_KINDS[kind] for kind in kinds):
        for scale, angle, dx, dy in variants:
            mask = draw_mask(shape, texture, EXTENT[size] * scale, angle, dx, dy)
            masks.append(np.asarray(mask, dtype=np.float32).ravel() / 255)
    coverages = np.stack(masks)
    return Templates(coverages.reshape(len(kinds), -1, CELL**2), (coverages**2).sum(-1))
