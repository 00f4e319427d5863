import pytest
import torch

from baton_lightning.frozen.llm import PretrainedLLM, TinyLLM

WORDS = "a the red blue square circle on left right . , first then jumps [speaker] says 'ku'".split()


@pytest.fixture(scope="module")
def llm():
    return TinyLLM(width=32, depth=2, vocabulary=WORDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, llm):
    folder = tmp_path_factory.mktemp("llm")
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    return str(folder)


def embedded(llm, text):
    return llm.embed(torch.tensor(llm.tokenize([text])))


def test_one_token_a_word_or_mark_whatever_the_case(llm):
    (ids, shouted) = llm.tokenize(["a red square, on the left.", "A RED SQUARE , ON THE LEFT ."])
    assert ids == shouted and len(ids) == 8 and len(set(ids)) == 8


def test_vocabulary_entries_with_punctuation_are_split_as_texts_are(llm):
    (ids,) = llm.tokenize(["[speaker] says 'ku'"])
    assert len(ids) == 7 and llm.tokenizer.unk_token_id not in ids


def test_an_unknown_word_is_read_as_unknown_and_named(llm):
    with pytest.warns(UserWarning, match="does not have: zebra"):
        (ids,) = llm.tokenize(["a red zebra"])
    assert ids[-1] == llm.tokenizer.unk_token_id


def test_no_texts_and_empty_texts_have_no_tokens(llm):
    assert llm.tokenize([]) == [] and llm.tokenize([""]) == [[]]


def test_a_forward_over_embeddings_is_a_forward_over_tokens(llm):
    ids = torch.tensor(llm.tokenize(["a red square jumps"]))
    torch.testing.assert_close(llm(llm.embed(ids)), llm.model(input_ids=ids).last_hidden_state)


def test_a_position_does_not_see_what_follows(llm):
    embeds = embedded(llm, "a red square jumps then")
    changed = embeds.clone()
    changed[:, 3:] = torch.randn(1, 2, llm.width)
    assert torch.equal(llm(embeds)[:, :3], llm(changed)[:, :3])
    assert not torch.allclose(llm(embeds)[:, 3:], llm(changed)[:, 3:])


def test_every_parameter_of_the_tiny_model_is_trained():
    llm = TinyLLM(width=32, depth=2, vocabulary=WORDS)
    llm(embedded(llm, "a red square jumps")).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in llm.parameters())


def test_sizes_are_read_from_the_model(llm):
    assert (llm.width, llm.max_positions) == (32, 1024)
    with pytest.raises(ValueError, match="width=90"):
        TinyLLM(width=90)


def test_a_saved_model_loads_by_path(llm, saved):
    loaded = PretrainedLLM(saved)
    assert loaded.tokenize(["a red square"]) == llm.tokenize(["a red square"])
    embeds = embedded(llm, "a red square jumps")
    torch.testing.assert_close(loaded(embeds), llm(embeds))
    assert all(p.requires_grad for p in loaded.parameters())


def test_gradient_checkpointing_changes_no_gradient(llm, saved):
    embeds = embedded(llm, "a red square jumps").detach()
    gradients = []
    for checkpointing in (False, True):
        loaded = PretrainedLLM(saved, gradient_checkpointing=checkpointing).train()
        loaded(embeds).square().mean().backward()
        gradients.append(loaded.model.layers[0].mlp.down_proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(llm, saved):
    pytest.importorskip("peft")
    adapted = PretrainedLLM(saved, lora_rank=4)
    embeds = embedded(llm, "a red square jumps")
    torch.testing.assert_close(adapted(embeds), llm(embeds))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    adapted(embeds.detach()).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for name, p in adapted.named_parameters() if "lora_B" in name)


def test_on_the_meta_device_qwen3_8b_has_its_released_size_and_reads_nothing():
    with torch.device("meta"):
        qwen = PretrainedLLM("Qwen/Qwen3-8B")
    assert sum(p.numel() for p in qwen.parameters()) == 7_568_405_504
    assert (qwen.width, qwen.max_positions, qwen.tokenizer) == (4096, 40960, None)


def test_on_the_meta_device_a_saved_model_has_its_own_size(llm, saved):
    with torch.device("meta"):
        shape = PretrainedLLM(saved, lora_rank=2)
    assert sum(p.numel() for n, p in shape.named_parameters() if "lora_" not in n) == sum(p.numel() for p in llm.parameters())
    assert all(p.is_meta for p in shape.parameters())
