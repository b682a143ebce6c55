"""Which caption belongs to which image among the members of an archive, by their names alone.

The rule: an image's caption has its exact stem (all before the last dot). Where none has, webdataset's key (all before
the first dot) decides, if one image alone can be meant. What is ambiguous is left out and named, never guessed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from vlv.data.files import display_name, unread_kind
from vlv.data.formats import IMAGE_EXTENSIONS

CAPTION_NONE, CAPTION_TEXT, CAPTION_JSON, CAPTION_SEVERAL = 0, 1, 2, 3
_IMAGES = frozenset(ending.encode() for ending in IMAGE_EXTENSIONS)
_CAPTIONS = {b"txt": CAPTION_TEXT, b"json": CAPTION_JSON}


class Pair(NamedTuple):
    """An image and its caption, as places in the list of names."""

    image: int
    caption: int | None
    kind: int  # of the caption: CAPTION_SEVERAL where two files claim to be it


class Pairing(NamedTuple):
    """What the names of an archive say.

    pairs: in the order of their images.
    left_out: places of images that are left out: another image has their stem, or they are a part of another sample.
    lone_captions: how many captions have no image.
    others: how many members of each kind are of samples without an image, as ".heic"; what describes data is none.
    """

    pairs: list[Pair]
    left_out: list[int]
    lone_captions: int
    others: Counter[str]


def webdataset_key(name: bytes) -> bytes:
    """Return all before the base name's first dot: a/1.mask.png -> a/1."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.partition(b".")[0]


def is_sample_file(name: bytes) -> bool:
    """Whether a member can belong to a sample: it is neither hidden nor webdataset's own metadata."""
    return not name.rpartition(b"/")[2].startswith(b".") and not name.startswith(b"__")


def pair_names(names: Sequence[bytes]) -> Pairing:
    """Pair images and captions; hidden names and metadata (`is_sample_file`) are not expected."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        groups[webdataset_key(name)].append(place)
    pairs: list[Pair] = []
    left_out: list[int] = []
    lone_captions, others = 0, Counter[str]()
    for key, places in groups.items():  # equal stems have equal keys, so a group can be paired for itself
        group = _pair_group(names, key, places)
        pairs += group.pairs
        left_out += group.left_out
        lone_captions += group.lone_captions
        others += group.others
    return Pairing(sorted(pairs), sorted(left_out), lone_captions, others)


def _pair_group(names: Sequence[bytes], key: bytes, places: list[int]) -> Pairing:
    images: defaultdict[bytes, list[int]] = defaultdict(list)
    captions: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)  # (kind, place)
    for place in places:
        stem, _, ending = names[place].rpartition(b".")  # without a dot, no ending that is known
        ending = ending.lower()
        if ending in _IMAGES:
            images[stem].append(place)
        elif ending in _CAPTIONS:
            captions[stem].append((_CAPTIONS[ending], place))
    if not images:
        kinds = [unread_kind(display_name(names[place])) for place in places]
        return Pairing([], [], len(captions), Counter(kind for kind in kinds if kind is not None))
    pairs: list[Pair] = []
    left_out: list[int] = []
    for stem, found in images.items():
        # 1.mask.png beside 1.jpg is a part of sample 1, unless it has a caption of its own.
        is_part = key in images and stem != key and stem not in captions
        if len(found) > 1 or is_part:
            left_out += found
        else:
            own = captions.get(stem) or (captions.get(key) if len(images) == 1 else None)
            pairs.append(Pair(found[0], *_choose(own)))
    lone = key in captions and key not in images and (len(images) > 1 or next(iter(images)) in captions)
    return Pairing(pairs, left_out, int(lone), Counter())


def _choose(captions: list[tuple[int, int]] | None) -> tuple[int | None, int]:
    """The one caption: a .txt before a .json, as img2dataset writes both."""
    if not captions:
        return None, CAPTION_NONE
    kind, place = min(captions)
    return place, CAPTION_SEVERAL if sum(other == kind for other, _ in captions) > 1 else kind
