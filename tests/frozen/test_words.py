import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.frozen.words import WORDS
from baton_lightning.world.prompts import VOCABULARY, prompts, tokenize
from baton_lightning.world.scene import sample_scene


@pytest.mark.filterwarnings("error")
def test_the_default_vocabulary_holds_every_prompt_of_the_world_token_for_token():
    assert WORDS == VOCABULARY
    llm = TinyLLM(width=32, depth=1)
    for index in range(50):
        scene = sample_scene(0, index, "single", ClipSpec())
        for text in (*prompts(scene), *prompts(scene, references=True)):
            (ids,) = llm.tokenize([text])
            assert llm.tokenizer.convert_ids_to_tokens(ids) == tokenize(text)
