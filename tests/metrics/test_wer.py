import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.text import WordErrorRate as Reference

from baton_lightning.metrics.cpwer import CpWordErrorRate
from baton_lightning.metrics.wer import WordErrorRate
from baton_lightning.metrics.words import edit_distance, english_normaliser

TEXTS = st.lists(st.sampled_from("a b c d".split()), max_size=8)


def test_punctuation_case_and_contractions_are_no_errors_as_they_would_be_without_a_normaliser():
    reference_words, hypothesis_words = "Well, I won't: it's TWENTY-five!", "well i will not it is 25"
    plain, normalised = WordErrorRate(normaliser=str), WordErrorRate()
    for metric in (plain, normalised):
        metric.update([reference_words], [hypothesis_words])
    assert normalised.result().value == 0
    assert plain.result().value == 7 / 5  # not one word is the same


@given(TEXTS, TEXTS)
def test_edits_are_a_distance(one, other):
    assert edit_distance(one, other) == edit_distance(other, one) >= abs(len(one) - len(other))
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, other) <= edit_distance(one, []) + edit_distance([], other)


@settings(max_examples=25)
@given(st.lists(st.tuples(TEXTS.filter(bool), TEXTS), min_size=1, max_size=4))
def test_the_rate_is_that_of_torchmetrics(pairs):
    reference_words, hypothesis_words = ([" ".join(words) for words in side] for side in zip(*pairs, strict=True))
    ours, theirs = WordErrorRate(), Reference()
    ours.update(reference_words, hypothesis_words)
    normalise = english_normaliser()
    theirs.update([normalise(text) for text in hypothesis_words], [normalise(text) for text in reference_words])
    if ours.words:  # the normaliser may leave nothing of a short text
        assert ours.result().value == pytest.approx(float(theirs.compute()))


def test_errors_are_summed_over_words_not_averaged_over_clips():
    metric = WordErrorRate()
    metric.update(["one two three four five six seven eight nine ten", "x"], ["one two three four five six seven eight nine ten", "y"])
    assert metric.result().value == pytest.approx(1 / metric.result().also["words"])
    assert metric.result().n == 2


def test_silence_is_all_deletions_and_no_reference_is_no_number():
    metric = WordErrorRate()
    metric.update(["three little words"], [""])
    assert metric.result().value == 1
    empty = WordErrorRate()
    empty.update([""], [""])
    assert (empty.result().value, empty.result().n) == (None, 1)


def test_spellings_are_unified_only_with_a_list(tmp_path):
    (tmp_path / "normalizer.json").write_text('{"colour": "color"}')
    assert english_normaliser(str(tmp_path / "normalizer.json"))("My colour") == "my color"
    assert english_normaliser()("My colour") == "my colour"
    with pytest.raises(ValueError, match="normalizer.json of a Whisper checkpoint"):
        english_normaliser("nowhere.json")


def test_errors_are_counted_in_characters_where_words_have_no_blanks_between_them():
    metric = WordErrorRate()
    metric.update(["去公园吧。", "Guten Tag!"], ["去公司吧", "guten tag"], ["zh", "de"])
    assert metric.result().value == 1 / 6 and metric.result().also["words"] == 6  # four characters and two words
    assert "ja, th, zh by characters" in metric.protocol
    speakers = CpWordErrorRate()
    speakers.update([{"Ann": "你好", "Bob": "再见"}], [{"S1": "再见", "S2": "你很好"}], ["zh"])
    assert speakers.result().value == 1 / 4
