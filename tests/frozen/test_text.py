import pytest
import torch

from baton_lightning.frozen.text import UMT5, TinyText

WORDS = "a the red blue square circle on left right . first then jumps & talks".split()
LONG = "a red square on the left . then the blue circle jumps"


@pytest.fixture(scope="module")
def text():
    return TinyText(width=32, vocabulary=WORDS)


def test_a_text_has_one_row_a_token_and_one_for_its_end(text):
    rows = text(["a red square", LONG, ""])
    assert [tuple(r.shape) for r in rows] == [(4, 32), (13, 32), (1, 32)]
    assert text([]) == []


def test_rows_do_not_depend_on_the_other_texts_of_a_batch(text):
    (alone,), (batched, _) = text(["a red square"]), text(["a red square", LONG])
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=1e-5)


def test_rows_are_the_encoder_s_own_on_the_unpadded_tokens(text):
    ids = text.tokenizer([LONG], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(text([LONG])[0], text.model(input_ids=ids).last_hidden_state[0], atol=1e-5, rtol=1e-5)


def test_word_order_matters(text):
    red, blue = text(["red blue", "blue red"])
    assert (red[-1] - blue[-1]).abs().max() > 1e-3


def test_entities_and_blanks_are_cleaned(text):
    clean, messy = text(["red & blue", "  red &amp;amp;\n  blue "])
    assert torch.equal(clean, messy)


def test_a_long_text_is_cut_with_a_warning_and_keeps_its_end_token():
    text = TinyText(width=32, max_tokens=5, vocabulary=WORDS)
    with pytest.warns(UserWarning, match="13 tokens was cut to 5"):
        (rows,) = text([LONG])
    assert rows.shape == (5, 32)
    torch.testing.assert_close(rows, text(["a red square on"])[0])


def test_a_saved_encoder_loads_by_path(text, tmp_path):
    text.model.save_pretrained(tmp_path)
    text.tokenizer.save_pretrained(tmp_path)
    loaded = UMT5(str(tmp_path), dtype="float32")
    torch.testing.assert_close(loaded([LONG])[0], text([LONG])[0])
    half = UMT5(str(tmp_path))
    assert half.dtype == torch.bfloat16 and half([LONG])[0].dtype == torch.float32
