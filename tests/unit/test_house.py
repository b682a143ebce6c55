"""Sizes that keep the package readable, measured over `vlv/` by reading its source."""

import ast
import io
import tokenize
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "vlv").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
FUNCTIONS = [
    (path, node)
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def lines(node):
    return (node.end_lineno or 0) - node.lineno + 1


def parameters(node):
    """How many arguments a caller may give; the instance or class is none of them."""
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def over(limit, measure):
    """Functions that measure more than a limit."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {measure(node)}"
        for path, node in FUNCTIONS
        if measure(node) > limit
    ]


def test_the_median_file_fits_on_two_screens():
    sizes = [len(path.read_text().splitlines()) for path in FILES if path.read_text().strip()]
    assert median(sizes) <= 120, sorted(sizes)


def test_nine_functions_in_ten_fit_on_one_screen():
    assert quantiles([lines(node) for _, node in FUNCTIONS], n=10)[-1] <= 40


def test_no_function_is_longer_than_two_screens():
    assert not over(80, lines)


def test_no_function_takes_more_than_eight_parameters():
    assert not over(8, parameters)


def test_any_is_an_exception():
    """Where a library's own types say nothing, and nowhere else: one in 250 lines."""
    uses = {
        str(path.relative_to(ROOT)): sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
        for path, tree in TREES.items()
    }
    total = sum(len(path.read_text().splitlines()) for path in FILES)
    assert sum(uses.values()) < total / 250, sorted(((n, p) for p, n in uses.items() if n), reverse=True)[:20]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path):
    if path.read_text().strip():
        assert ast.get_docstring(TREES[path])


def test_comments_give_reasons_where_the_code_is_subtle():
    """A floor, not an aim: a comment that repeats its line is worse than none."""
    comments = code = 0
    for path in FILES:
        text = path.read_text()
        code += sum(bool(line.strip()) for line in text.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(
            token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type", "# fmt"))
            for token in tokens
        )
    assert comments / code >= 0.039, f"{comments} comments in {code} lines"
