"""What is wrong in a description of a scene, each fault by its name."""

from __future__ import annotations

from collections.abc import Sequence

from vlv.shapes.describe import holds
from vlv.shapes.phrases import Said
from vlv.shapes.scene import SHAPES, Item, Scene
from vlv.shapes.text_oracle import Description, Relation, Statement, as_description
from vlv.shapes.words import NUMBER_WORDS

_ORDER = ("size", "texture", "color", "shape")
_MOST = 2  # attributes that may be wrong or open where a statement still counts as one of a certain shape


def facts_of(statements: Sequence[Statement], scene: Scene) -> tuple[list[Statement], list[Statement]]:
    """The stated shapes that are not there as stated, and the scene's that are not stated rightly.

    A shape that is stated twice is wrong once.
    """
    rest, wrong = list(as_description(scene).statements), []
    for statement in statements:
        if statement in rest:
            rest.remove(statement)
        else:
            wrong.append(statement)
    return wrong, rest


def _repeats(statement: Statement, others: Sequence[Statement]) -> bool:
    """Whether one of the others says all that this one says: "a red circle", where a large red circle was stated."""
    told = _told(statement)
    return (
        "shape" in told
        and ("color" in told or "place" in told)
        and any(told.items() <= other.said.items() for other in others)
    )


def name_faults(description: Description, scene: Scene) -> list[str]:
    """All that is wrong in a description: words that are not read, contradictions, what is false, and what is left out.

    Relations, and the number of shapes, need not be stated.
    """
    unstated = [] if description.grounds else ["no background"]
    return [*_shape_faults(description, scene), *unstated, *_other_faults(description, scene)]


def what_is_false(description: Description, scene: Scene) -> list[str]:
    """What is wrong in a text's own words, each shape for itself: what they leave out is no part of it."""
    wrong, _ = facts_of(description.statements, scene)
    false = [statement for statement in wrong if statement.complete or not _named(_told(statement), scene)]
    return [*(f"shape: {statement.said}" for statement in false), *_other_faults(description, scene)]


def _other_faults(description: Description, scene: Scene) -> list[str]:
    return [
        *description.faults,
        *_ground_faults(description, scene),
        *_count_faults(description, scene),
        *(f"false relation: '{name_relation(r)}'" for r in description.relations if not is_true(r, scene)),
        *_denial_faults(description, scene),
    ]


def _shape_faults(description: Description, scene: Scene) -> list[str]:
    wrong, rest = facts_of(description.statements, scene)
    found: list[str] = []
    before = [statement for statement in as_description(scene).statements if statement not in rest]
    unknown: list[Statement] = []
    for statement in wrong:
        if _repeats(statement, before):
            found.append(f"duplicate: '{name_thing(statement.said)}'")
        else:
            unknown.append(statement)
        before.append(statement)
    # The closest first: a statement is one of the shape that it differs least from, and of that alone.
    pairs = [(len(_off(statement, true)), i, j) for i, statement in enumerate(unknown) for j, true in enumerate(rest)]
    matched: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if i not in matched and j not in matched.values() and _is_one_of(unknown[i], rest[j]):
            matched[i] = j
    for i, statement in enumerate(unknown):
        if i in matched:
            found += [_name_difference(name, statement, rest[matched[i]]) for name in _off(statement, rest[matched[i]])]
        else:
            found.append(f"hallucinated: '{name_thing(statement.said)}'")
    left = [true for j, true in enumerate(rest) if j not in matched.values()]
    return found + [f"left out: '{name_thing(true.said)}'" for true in left]


def _told(statement: Statement) -> Said:
    """What a statement says; a texture that is solid may be none that was said."""
    return {name: value for name, value in statement.said.items() if (name, value) != ("texture", "solid")}


def _off(statement: Statement, true: Statement) -> list[str]:
    """The attributes that are wrong or open."""
    return [name for name, value in true.said.items() if statement.said.get(name) != value]


def _is_one_of(statement: Statement, true: Statement) -> bool:
    if statement.shape not in SHAPES and statement.shape != "something":
        return False
    untold = all(true.said[name] == value for name, value in _told(statement).items() if name != "place")
    return len(_off(statement, true)) <= _MOST or (untold and statement.shape == true.shape)


def _name_difference(name: str, statement: Statement, true: Statement) -> str:
    value = statement.said.get(name)
    if value is None or value == "something":
        return f"no {name}: '{name_thing(statement.said)}'"
    return f"{name}: {true.said[name]} as {value}"


def _ground_faults(description: Description, scene: Scene) -> list[str]:
    if not description.grounds:
        return []
    first, *others = description.grounds
    wrong = [] if first == scene.background else [f"background: {scene.background} as {first}"]
    return wrong + [f"second background: {other}" for other in others if other != first]


def _count_faults(description: Description, scene: Scene) -> list[str]:
    if not description.counts:
        return []
    first, *others = description.counts
    wrong = [] if first == len(scene.items) else [f"count: {_number(len(scene.items))} as {_number(first)}"]
    return wrong + [f"second count: {_number(other)}" for other in others if other != first]


def _number(count: int) -> str:
    return NUMBER_WORDS[count]


def is_true(relation: Relation, scene: Scene) -> bool:
    """Whether a relation, or that it does not hold, is true of the shapes of a scene that it names."""
    first, second = _named(relation.first, scene), _named(relation.second, scene)
    held = any(holds(one, relation.relation, other) for one in first for other in second if one is not other)
    # That no star is above the moon is true also where there is no star; other relations need both.
    both = bool(second) and (bool(first) or relation.lacking)
    return both and not held if relation.denied else held


def _denial_faults(description: Description, scene: Scene) -> list[str]:
    found = []
    for denied in description.denials:
        ground = denied.get("background")
        if scene.background == ground if ground else _named(denied, scene):
            found.append(f"false negation: '{name_thing(denied)}'")
    if description.complete and len(description.statements) < len(scene.items):
        found.append("false negation: 'nothing else'")
    return found


def _named(said: Said, scene: Scene) -> list[Item]:
    shown = zip(scene.items, as_description(scene).statements, strict=True)
    return [item for item, true in shown if all(true.said.get(name) == value for name, value in said.items())]


def name_relation(relation: Relation) -> str:
    """ "red circle above blue star"."""
    words = (name_thing(relation.first), "not" if relation.denied else "", relation.relation)
    return " ".join(filter(None, (*words, name_thing(relation.second))))


def name_thing(said: Said) -> str:
    """ "small striped blue star": what is said of a thing; its place where nothing else is."""
    words = [said[name] for name in _ORDER if name in said and (name, said[name]) != ("texture", "solid")]
    if not words and "texture" in said:
        words = [said["texture"]]
    if words and said.get("shape", "something") == "something":
        words = [word for word in words if word != "something"] + ["shape"]
    return " ".join(words) or said.get("place") or said.get("background") or "anything"
