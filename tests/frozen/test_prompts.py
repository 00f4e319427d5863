import pytest
import torch

from baton_lightning.frozen.prompts import Ovi720, Ovi960, PromptFormat
from baton_lightning.frozen.text import TextEncoder, TinyText

VIDEO, AUDIO = 'A man says "Hello there."', "[Speaker A] whispers “come in” over rain."


def test_ovi_s_tags_mark_speech_and_sound():
    speech = "A man says <S>Hello there.<E>"
    assert Ovi720()(VIDEO, AUDIO) == f"{speech} <AUDCAP>[Speaker A] whispers <S>come in<E> over rain.<ENDAUDCAP>"
    assert Ovi960()(VIDEO, AUDIO) == f"{speech} Audio: [Speaker A] whispers <S>come in<E> over rain."


def test_the_default_joins_and_leaves_quotes_and_braces_alone():
    assert PromptFormat()("a {audio} cat", "rain {video}") == "a {audio} cat rain {video}"
    assert PromptFormat()(VIDEO, AUDIO) == f"{VIDEO} {AUDIO}"


def test_without_a_sound_there_is_no_empty_tag():
    assert Ovi720()("a cat", " ") == "a cat"


def test_a_template_without_its_places_is_refused():
    with pytest.raises(ValueError, match="template must hold {audio}, got 'only {video}'"):
        PromptFormat("only {video}")
    with pytest.raises(ValueError, match="speech must hold {speech}"):
        PromptFormat(speech="<S><E>")


def test_an_encoder_reads_both_prompts_in_its_format():
    words = "a cat says mew rain audcap endaudcap < > . s e".split()
    tiny = TinyText(width=32, vocabulary=words)
    tagged = TextEncoder(tiny.model, tiny.tokenizer, prompt_format=Ovi720())
    (rows,) = tagged.context(["a cat"], ["rain"])
    torch.testing.assert_close(rows, tiny(["a cat <AUDCAP>rain<ENDAUDCAP>"])[0])
    assert rows.shape != tiny.context(["a cat"], ["rain"])[0].shape
    assert tagged.format != tiny.format  # so a cache of the one is no cache of the other
