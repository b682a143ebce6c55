import pytest

from vlv.models.texts import whole_sentences


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A red house. It stands in a", "A red house."),
        ('It says "stop." The road', 'It says "stop."'),
        ("At f/2.8 the lens", "At f/2.8 the lens"),
        ("A lake! And a boat? And", "A lake! And a boat?"),
        ("Whole. Already.", "Whole. Already."),
        ("no end at all", "no end at all"),
    ],
)
def test_captions_that_were_cut_end_at_a_sentence(text, kept):
    assert whole_sentences(text) == kept
