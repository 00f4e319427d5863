"""cpWER against meeteval 0.4.3: its answers to 1,000 random pairs of transcripts are recorded, and asked for again where it is
installed (`pip install -e .[meeteval]`; it compiles C++)."""

import itertools
import json
import random
from pathlib import Path

import pytest

from baton_lightning.metrics.clips import ClipExcluded
from baton_lightning.metrics.cpwer import AttributedWordErrorRate, CpWordErrorRate, join_by_speaker, recognised_lines
from baton_lightning.metrics.words import edit_distance

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "meeteval_cpwer.json").read_text())
"""[errors, words] of ``cp_word_error_rate(reference, hypothesis)`` for each pair of ``transcripts()``."""


def transcripts(number=1000, seed=0):
    """Pairs of transcripts, each with none to four speakers of none to nine words, few enough that they coincide."""
    draw = random.Random(seed)

    def one():
        return {f"s{i}": " ".join(draw.choices("abcde", k=draw.choice((0, 0, 1, 2, 5, 9)))) for i in range(draw.randint(0, 4))}

    return [(one(), one()) for _ in range(number)]


def counts(kind, *pairs):
    """[errors, words] of each pair."""
    metric, totals = kind(normaliser=str), [(0, 0)]
    for reference, hypothesis in pairs:
        metric.update([reference], [hypothesis])
        totals.append((int(metric.errors), int(metric.words)))
    return [[errors - before, words - earlier] for (before, earlier), (errors, words) in itertools.pairwise(totals)]


def test_a_thousand_random_transcripts_score_as_meeteval_recorded_them():
    pairs = transcripts()
    assert (
        len(RECORDED) == 1000 and any(len(r) != len(h) for r, h in pairs) and any(not r for r, _ in pairs) and any(not h for _, h in pairs)
    )
    assert counts(CpWordErrorRate, *pairs) == RECORDED


def test_a_thousand_random_transcripts_score_as_meeteval_does():
    wer = pytest.importorskip("meeteval.wer", reason="source only: pip install -e .[meeteval]")
    pairs = transcripts(seed=1)
    theirs = [wer.cp_word_error_rate(*pair, reference_sort=False, hypothesis_sort=False) for pair in pairs]
    assert counts(CpWordErrorRate, *pairs) == [[their.errors, their.length] for their in theirs]


def test_the_assignment_is_the_best_of_all_permutations():
    pairs = transcripts(100, seed=2)
    for (reference, hypothesis), (errors, _) in zip(pairs, counts(CpWordErrorRate, *pairs), strict=True):
        size = max(len(reference), len(hypothesis))
        reference_words, hypothesis_words = (
            [*map(str.split, side.values()), *[[]] * (size - len(side))] for side in (reference, hypothesis)
        )
        best = min(sum(map(edit_distance, reference_words, order)) for order in itertools.permutations(hypothesis_words))
        assert errors == best


def test_edits_do_not_cross_speakers():
    metric = CpWordErrorRate()
    metric.update([{"Ann": "the cat", "Bob": "sat on"}], [{"S01": "the cat sat", "S02": "on"}])
    assert metric.result().value == 0.5  # as one text it would be 0


def test_the_right_words_from_the_wrong_body_count_only_where_speakers_do():
    reference_words, swapped = {"Ann": "the cat", "Bob": "sat on"}, {"Ann": "sat on", "Bob": "the cat"}
    assert counts(CpWordErrorRate, (reference_words, swapped)) == [[0, 4]]
    assert counts(AttributedWordErrorRate, (reference_words, swapped)) == [[4, 4]]
    stranger = {"Ann": "the cat", "Zoe": "sat on"}
    assert counts(AttributedWordErrorRate, (reference_words, stranger)) == [[4, 4]]  # two words missing, two from nowhere


def test_a_speaker_s_lines_are_joined_in_order():
    assert join_by_speaker([("Ann", "the"), ("Bob", "x"), ("Ann", "cat")]) == {"Ann": "the cat", "Bob": "x"}


def test_a_recogniser_without_speakers_is_left_out_not_counted():
    with pytest.raises(ClipExcluded, match="does not tell speakers apart"):
        recognised_lines({"segments": [{"text": "the cat"}]})
