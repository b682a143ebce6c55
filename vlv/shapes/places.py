"""Phrases of a description that say where something stands: places of the grid, and relations."""

from __future__ import annotations

from dataclasses import dataclass

from vlv.shapes.words import ATTRIBUTES, IMAGES, NOUNS, Cursor

# Names of the places, by (row, column): what faults call them.
PLACE_NAMES = {
    (row, column): f"{vertical} {horizontal}".strip() or "center"
    for row, vertical in enumerate(("top", "", "bottom"))
    for column, horizontal in enumerate(("left", "", "right"))
}
CELLS = {name: cell for cell, name in PLACE_NAMES.items()}
_ROWS = {"top": 0, "upper": 0, "bottom": 2, "lower": 2}
_COLUMNS = {"left": 0, "right": 2}
_MIDDLES = frozenset({"middle", "center", "centre", "central"})
_PARTS = frozenset(["side", "edge", "part", "area", "region", "section", "portion", "position", "cell", "spot"])
_NO_PLACES = frozenset({"half", "third", "quarter"})  # "the left half" is no place of the grid
_RELATIONS = {
    **dict.fromkeys(("above", "over", "on top of", "higher than"), "above"),
    **dict.fromkeys(("below", "under", "beneath", "underneath", "lower than"), "below"),
}
_JOINTS = frozenset({"and", ", and", ","})


@dataclass(frozen=True)
class Place:
    """Where something stands: row and column, None where the phrase leaves one open.

    loose: what is left open is unknown, as in "the top row"; else it is the middle one, as in "the top".
    """

    row: int | None
    column: int | None
    loose: bool = False

    @property
    def name(self) -> str | None:
        """The cell's name; None where it is not known."""
        if self.loose and None in (self.row, self.column):
            return None
        return PLACE_NAMES[1 if self.row is None else self.row, 1 if self.column is None else self.column]

    def joined(self, other: Place) -> Place | None:
        """The place that both together say, as "at the top" and "on the left" do; None where they do not fit."""
        if self != other and any(None not in (place.row, place.column) for place in (self, other)):
            return None
        rows, columns = {self.row, other.row} - {None}, {self.column, other.column} - {None}
        if len(rows) > 1 or len(columns) > 1:
            return None
        return Place(next(iter(rows), None), next(iter(columns), None), self.loose and other.loose)


def read_place(cursor: Cursor) -> Place | None:
    """Pass over "in the top left corner", "on the left side of the picture", "bottom right"; None where none comes."""
    start = cursor.at
    bare = cursor.take({"in", "at", "on", "to", "along"}) is None
    article = cursor.take({"the", "its", "the very", "the far"})
    place = read_spot(cursor)
    # "The top left star" is a noun phrase: there the place is an attribute.
    if place is None or (bare and article and (cursor.word in NOUNS or cursor.word in ATTRIBUTES)):
        cursor.at = start
        return None
    after = cursor.at
    if not cursor.take({"of"}) or takes_image(cursor):
        return place
    # "In the middle of the top row" is a place of a place. "On the left of the star" is none: it is a relation.
    inner = read_place(cursor) if cursor.word == "the" else None
    joined = place.joined(inner) if inner else None
    cursor.at = after if joined is None else cursor.at
    return joined or place


def read_spot(cursor: Cursor) -> Place | None:
    """Pass over "top left corner", "middle row", "center": a place without preposition and article."""
    start, named = cursor.at, 0
    row: int | None = None
    column: int | None = None
    while named < 2:
        word = cursor.word
        if word in _ROWS and row is None:
            row = _ROWS[word]
        elif word in _COLUMNS and column is None:
            column = _COLUMNS[word]
        elif word not in _MIDDLES:
            break
        named += 1
        cursor.at += 1
    if not named or cursor.word in _NO_PLACES:
        cursor.at = start
        return None
    cursor.take({"hand", "most"})
    line = cursor.take({"row", "column", "corner"})
    if line == "row":
        return Place(1 if row is None else row, column, loose=True)
    if line == "column":
        return Place(row, 1 if column is None else column, loose=True)
    cursor.take(_PARTS)
    # A corner needs both words: "the left corner" leaves open which one.
    return Place(row, column, loose=line == "corner")


def takes_image(cursor: Cursor) -> bool:
    """Pass over "the picture"; whether it came next."""
    start = cursor.at
    cursor.take({"the", "this", "our", "the whole"})
    if cursor.take(IMAGES):
        return True
    cursor.at = start
    return False


def read_relations(cursor: Cursor) -> list[str]:
    """Pass over "above", "to the left of", "above and to the right of": the relations to what follows."""
    found, end = [], cursor.at
    while relation := _read_relation(cursor):
        found.append(relation)
        end = cursor.at
        cursor.take(_JOINTS)
    cursor.at = end
    return found


def _read_relation(cursor: Cursor) -> str | None:
    start = cursor.at
    relation = cursor.take(_RELATIONS)
    if relation:
        return _RELATIONS[relation]
    cursor.take({"to the", "on the", "at the", "further", "further to the"})
    side = cursor.take(_COLUMNS)
    cursor.take({"hand", "side", "hand side"})
    # "On the left of the picture" and "on the left of the top row" are places.
    if side and cursor.take({"of", "from", "than"}):
        ahead = cursor.copy()
        if not takes_image(ahead) and read_place(ahead) is None:
            return f"{side} of"
    cursor.at = start
    return None
