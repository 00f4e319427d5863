import shutil

import pytest
import torch

from baton_lightning.frozen import language_files
from baton_lightning.frozen.llm import PretrainedLLM, TinyLLM


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_language_model_is_rebuilt_from_a_run_when_its_own_folder_is_gone(tmp_path, dtype):
    tiny = TinyLLM(width=32, depth=2, vocabulary="a red square jumps".split())
    tiny.model.save_pretrained(tmp_path / "qwen")
    tiny.tokenizer.save_pretrained(tmp_path / "qwen")
    trained = PretrainedLLM(str(tmp_path / "qwen"), dtype=dtype)
    language_files.save(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "qwen")
    with language_files.used_from(tmp_path / "run"):
        rebuilt = PretrainedLLM(str(tmp_path / "qwen"), dtype=dtype)
    rebuilt.load_state_dict(trained.state_dict())
    (ids,) = rebuilt.tokenize(["a red square"])
    assert [ids] == trained.tokenize(["a red square"]) and all(p.dtype == getattr(torch, dtype) for p in rebuilt.parameters())
    embeds = trained.embed(torch.tensor([ids]))
    assert torch.equal(rebuilt(embeds), trained(embeds))
    assert not any(path.suffix == ".safetensors" for path in (tmp_path / "run").rglob("*"))


def test_a_run_without_a_language_model_of_its_own_changes_nothing(tmp_path):
    for run in (None, tmp_path, tmp_path / "nowhere"):
        with language_files.used_from(run):
            assert language_files.current() is None
