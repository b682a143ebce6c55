"""The exact reader of descriptions: what a text states, and which of its words no construct accounts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlv.shapes.phrases import Said
from vlv.shapes.places import CELLS, PLACE_NAMES
from vlv.shapes.reading import Reader
from vlv.shapes.scene import Item, Scene
from vlv.shapes.words import split_sentences


@dataclass(frozen=True)
class Statement:
    """What a description states of one shape; None is what it leaves open. An unstated texture is solid.

    shape: of the world, or the noun of something that the world does not have.
    """

    size: str | None
    texture: str
    color: str | None
    shape: str
    place: tuple[int, int] | None

    @property
    def complete(self) -> bool:
        """Whether no attribute is left open."""
        return None not in (self.size, self.color, self.place)

    @property
    def said(self) -> Said:
        """The attributes that are stated, by name."""
        place = PLACE_NAMES[self.place] if self.place else None
        known = {"size": self.size, "texture": self.texture, "color": self.color, "shape": self.shape, "place": place}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Relation:
    """What a description states of two shapes, each named by some attributes.

    denied: it is said not to hold. lacking: of no shape, so that there need be none like the first.
    """

    first: Said
    relation: str
    second: Said
    denied: bool = False
    lacking: bool = False


@dataclass(frozen=True)
class Description:
    """What a description states.

    grounds: the stated backgrounds, in the text's order. counts: the stated numbers of shapes.
    denials: attributes that no shape is said to have together; {"background": colour} for a background.
    complete: it says that there is nothing else ("no other shapes").
    clean: of a picture, a scene explains all of it; a caption has no pixels to explain.
    faults: what is wrong whatever the scene is: words that are not read, and what contradicts the text's own words.
    """

    statements: tuple[Statement, ...]
    grounds: tuple[str, ...] = ()
    relations: tuple[Relation, ...] = ()
    counts: tuple[int, ...] = ()
    denials: tuple[Said, ...] = ()
    complete: bool = False
    clean: bool = True
    faults: tuple[str, ...] = ()

    @property
    def scene(self) -> Scene | None:
        """The scene, where all of the text is read and every statement and the background are complete."""
        items = []
        for item in self.statements:
            if item.size is None or item.color is None or item.place is None:
                return None
            items.append(Item(*item.place, item.size, item.texture, item.color, item.shape))
        if self.faults or not self.grounds:
            return None
        return Scene(tuple(sorted(items)), self.grounds[0])


def as_description(scene: Scene, clean: bool = True) -> Description:
    """What a picture of a scene shows, in the form of a caption's reading, so that both are measured alike."""
    statements = [Statement(i.size, i.texture, i.color, i.shape, (i.row, i.column)) for i in scene.items]
    return Description(tuple(statements), (scene.background,), clean=clean)


def read_description(text: str) -> Description:
    """What a description states. Every word is read or is named among the faults."""
    return _read(split_sentences(text))


def _read(sentences: Sequence[Sequence[str]]) -> Description:
    reader = Reader()
    for sentence in sentences:
        reader.read(list(sentence))
    relations = [
        Relation(r.first.naming, r.name, r.second.naming, r.denied, r.first.kind == "denied") for r in reader.links
    ]
    return Description(
        statements=tuple(_statement(draft.said) for draft in reader.drafts.stated),
        grounds=tuple(reader.grounds),
        relations=tuple(relations),
        counts=tuple(reader.counts),
        denials=(*reader.drafts.denied(), *({"background": color} for color in reader.denied_grounds)),
        complete=reader.complete,
        faults=(*reader.faults, *reader.drafts.faults),
    )


def _statement(said: Said) -> Statement:
    place = CELLS[said["place"]] if "place" in said else None
    # "Something" without a shape is a thing that no scene has.
    shape, texture = said.get("shape", "something"), said.get("texture", "solid")
    return Statement(said.get("size"), texture, said.get("color"), shape, place)


def read_halves(text: str) -> tuple[Description, Description]:
    """What a description of two scenes in one picture states of its left half, and of its right one.

    The halves are named ("On the left half, ..."), or each begins with its background, and the places tell which it is.
    """
    parts: list[list[list[str]]] = []
    sides: list[str] = []
    named = False
    for words in split_sentences(text):
        header = [words[:4] == ["on", "the", side, "half"] for side in ("left", "right")]
        if any(header):
            named = True
            sides.append("left" if header[0] else "right")
            parts.append([words[4:]])
        elif not parts or (not named and "background" in words):
            parts.append([words])
        else:
            parts[-1].append(words)
    read = [_read(part) for part in parts]
    if not named:
        sides = ["right" if any(s.place and s.place[1] > 1 for s in part.statements) else "left" for part in read]
    if sorted(sides) != ["left", "right"]:
        lost = Description((), faults=("half: not one description for each",))
        return lost, lost
    return read[sides.index("left")], read[sides.index("right")]
