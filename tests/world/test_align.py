import pytest

from baton_lightning.world.align import align, best_permutation_errors


def cp_rate(expected: list[str], found: list[str]) -> float:
    words = [dict(enumerate(text.split() for text in texts)) for texts in (expected, found)]
    return best_permutation_errors(*words) / sum(map(len, words[0].values()))


def test_cpwer_charges_words_that_moved_to_another_speaker():
    assert cp_rate(["the cat sat", "on"], ["the cat", "sat on"]) == 0.5


def test_cpwer_is_blind_to_the_names_of_speakers():
    assert cp_rate(["the cat sat", "on"], ["on", "the cat sat"]) == 0
    assert cp_rate(["the cat sat", "on"], ["the cat sat", "on"]) == 0


def test_cpwer_counts_missing_and_surplus_speakers():
    assert cp_rate(["the cat sat", "on"], ["the cat sat"]) == 0.25
    assert cp_rate(["the cat sat", "on"], ["the cat sat", "on", "mats"]) == 0.25
    assert cp_rate(["the cat"], [""]) == 1.0


@pytest.mark.parametrize(
    ("expected", "found", "errors"),
    [("", "", 0), ("a b c", "a b c", 0), ("a b c", "a c", 1), ("a b c", "a x c", 1), ("a", "b a c", 2), ("a b", "", 2), ("", "a b", 2)],
)
def test_errors_are_the_edit_distance(expected, found, errors):
    assert align(expected.split(), found.split()).errors == errors


def test_an_early_insertion_does_not_shift_later_words():
    same = align(["ba", "ku", "di"], ["ka", "ba", "ku", "di"])
    assert same.partner == (1, 2, 3) and same.extra == (0,) and same.errors == 1


def test_equal_tokens_are_paired_by_time():
    same = align([""], ["", "", ""], [1.0], [0.2, 0.9, 1.8])
    assert same.partner == (1,) and same.extra == (0, 2)


def test_a_substitution_is_a_partner():
    same = align(["ba", "ku"], ["ba", "di"])
    assert same.partner == (0, 1) and same.errors == 1
