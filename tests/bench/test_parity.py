"""``bench parity`` as a user meets it: exit codes, table, and what it says of a folder that is not a fixture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton_lightning.bench import cli, recording
from baton_lightning.bench.parity import replay
from baton_lightning.models.ovi import ovi_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ovi-micro"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "fixture"))


def parity(folder, *options):
    return cli.main(["parity", "--fixture", str(folder), *options])


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_good_fixture_passes_and_is_tabled(capsys):
    assert parity(FIXTURE) == 0
    table = capsys.readouterr().out
    for word in ("float64", "float32", "ragged_batch_i2av", "blk.1.vid", "out.audio.1", "gradients", "passed"):
        assert word in table


def test_a_wrong_weight_fails_and_names_the_cases(folder, capsys):
    weights = load_file(folder / "weights.safetensors")
    weights["audio_model.blocks.1.cross_attn.k_fusion.weight"] *= 1.001
    save_file(weights, folder / "weights.safetensors")
    assert parity(folder, "--dtype", "float64") == 1
    table = capsys.readouterr().out
    assert "ABOVE TOLERANCE" in table and "FAILED in" in table
    assert "video_only" not in table.splitlines()[-1]


def test_a_wrong_gradient_fails(folder):
    gradients = load_file(folder / "grads.safetensors")
    gradients["video_model.head.head.bias"] += 1e-6
    save_file(gradients, folder / "grads.safetensors")
    assert parity(folder, "--dtype", "float64") == 1
    assert parity(folder, "--dtype", "float32") == 0


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("t2av", "out.vid.0"),
        ("ragged_batch", "blk.0.vid"),
        ("ragged_batch", "out.audio.1"),
        ("grads", "video_model.head.head.bias"),
        ("grads", "video_model.blocks.1.self_attn.q.weight"),
    ],
)
def test_a_value_that_is_not_a_number_fails_wherever_it_is(folder, name, key):
    tensors = load_file(folder / f"{name}.safetensors")
    tensors[key].view(-1)[-1 if name != "ragged_batch" or key.startswith("out") else 0] = torch.nan
    save_file(tensors, folder / f"{name}.safetensors")
    assert parity(folder, "--dtype", "float64") == 1


def test_a_clip_of_a_batch_that_is_not_a_number_fails(folder):
    case = load_file(folder / "ragged_batch.safetensors")
    case["blk.1.audio"][1, 0] = torch.nan
    save_file(case, folder / "ragged_batch.safetensors")
    assert parity(folder, "--dtype", "float32") == 1


@pytest.fixture
def three_blocks(folder):
    """A recording of our own model with three blocks, the second one left out."""
    change_config(folder, lambda c: (c["video"].update(num_layers=3), c["audio"].update(num_layers=3)))
    change_config(folder, lambda c: c.update(cases={"short": {"slg_layer": 1}}))
    (folder / "grads.safetensors").unlink()
    config = recording.read_config(folder)
    model = ovi_model(config).eval()
    save_file(model.state_dict(), folder / "weights.safetensors")
    inputs = {k: v for k, v in load_file(folder / "t2av.safetensors").items() if k.startswith("in.")}
    with torch.no_grad():
        return folder, inputs | replay(model.double(), "short", {"slg_layer": 1}, inputs)


@pytest.mark.parametrize("third", [1, 2])
def test_blocks_after_one_left_out_are_numbered_by_place_or_by_order(three_blocks, third):
    folder, recorded = three_blocks
    renamed = {key.replace("blk.2.", f"blk.{third}."): tensor.contiguous() for key, tensor in recorded.items()}
    assert len(renamed) == len(recorded) and "blk.2.vid" in recorded
    save_file(renamed, folder / "short.safetensors")
    assert parity(folder) == 0
    renamed[f"blk.{third}.vid"] += 1e-3
    save_file(renamed, folder / "short.safetensors")
    assert parity(folder) == 1


def test_a_recording_in_float32_is_held_to_float32_alone(folder, capsys):
    for file in folder.glob("*.safetensors"):
        save_file({k: v.float() for k, v in load_file(file).items()}, file)
    change_config(folder, lambda c: c.update(dtype="float32"))
    assert parity(folder) == 0
    assert "float64, bar" not in capsys.readouterr().out
    assert parity(folder, "--dtype", "float64") == 1


def test_gradients_are_optional(folder):
    (folder / "grads.safetensors").unlink()
    assert parity(folder, "--dtype", "float64") == 0


def remove(name):
    return lambda folder: (folder / name).unlink()


def drop_key(name, key):
    def change(folder):
        tensors = load_file(folder / name)
        del tensors[key]
        save_file(tensors, folder / name)

    return change


def change_tensor(name, key, change):
    def changed(folder):
        tensors = load_file(folder / name)
        tensors[key] = change(tensors[key]).contiguous()
        save_file(tensors, folder / name)

    return changed


def configure(change):
    return lambda folder: change_config(folder, change)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (remove("config.json"), "config.json"),
        (remove("weights.safetensors"), "weights.safetensors"),
        (remove("i2av.safetensors"), "i2av.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "t2av.safetensors").write_bytes(b"x" * 40), "not a readable safetensors"),
        (configure(lambda c: c.pop("cases")), "missing: cases"),
        (configure(lambda c: c["cases"].clear()), "names no cases"),
        (configure(lambda c: c["video"].pop("num_heads")), "num_heads"),
        (configure(lambda c: c["video"].update(ffn_dim=72)), "does not fit config.json"),
        (configure(lambda c: c["video"].update(num_heads=0)), "a whole number above 0"),
        (configure(lambda c: c["video"].update(num_heads="2")), "a whole number above 0"),
        (configure(lambda c: c["video"].update(num_heads=5)), "num_heads"),
        (configure(lambda c: c["audio"].update(window_size=[2, 2])), "window_size"),
        (configure(lambda c: c["audio"].update(qk_norm=False)), "qk_norm"),
        (configure(lambda c: c["audio"].update(eps=None)), "eps"),
        (configure(lambda c: c["cases"].update(t2av=None)), "case t2av: its flags must be an object"),
        (configure(lambda c: c["cases"]["slg1"].update(slg_layer="one")), "slg_layer must be the number of a block"),
        (configure(lambda c: c["cases"]["i2av"].update(first_frame_is_clean="no")), "true or false"),
        (configure(lambda c: c["cases"].update(other={})), "other.safetensors"),
        (change_tensor("weights.safetensors", "video_model.head.head.bias", lambda x: x.int()), "not floating-point"),
        (change_tensor("t2av.safetensors", "in.vid.0", lambda x: x[:3]), "case t2av does not fit"),
        (change_tensor("t2av.safetensors", "in.vid.0", lambda x: x[..., :3]), "must divide by the patch"),
        (change_tensor("t2av.safetensors", "in.vid_context.0", lambda x: x.repeat(3, 1)), "at most 8 rows"),
        (change_tensor("t2av.safetensors", "in.t", lambda x: x[0]), "one time a clip"),
        (change_tensor("t2av.safetensors", "blk.0.vid", lambda x: x[0]), "[clips, tokens, channels]"),
        (configure(lambda c: c["cases"]["video_only"].update(drop="sound")), "drop must be one of vid, audio"),
        (drop_key("weights.safetensors", "video_model.head.head.bias"), "video_model.head.head.bias"),
        (drop_key("t2av.safetensors", "in.t"), "in.t"),
        (drop_key("ragged_batch.safetensors", "in.audio.1"), "in.audio.1"),
        (drop_key("t2av.safetensors", "out.audio.0"), "out.audio.0"),
    ],
)
def test_a_malformed_folder_is_told_in_one_line_and_exits_with_two(folder, spoil, complaint, capsys):
    spoil(folder)
    assert parity(folder, "--dtype", "float32") == 2
    output = capsys.readouterr().err
    assert complaint in output and output.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (drop_key("grads.safetensors", "_probe.vid"), None),  # the loss of sound alone is another loss
        (change_tensor("grads.safetensors", "_probe.vid", lambda x: x[:1]), "_probe.vid must have the shape"),
        (lambda folder: save_file({"_loss": torch.zeros(1)}, folder / "grads.safetensors"), "must hold _probe.vid"),
        (configure(lambda c: c.update(cases={"i2av": c["cases"]["i2av"]})), None),
        (
            lambda folder: (change_config(folder, lambda c: c["cases"].pop("t2av")), (folder / "t2av.safetensors").unlink()),
            "t2av.safetensors",
        ),
    ],
)
def test_gradients_are_compared_or_said_to_be_unfit(folder, spoil, complaint, capsys):
    spoil(folder)
    code = parity(folder, "--dtype", "float64")
    out, err = capsys.readouterr()
    assert (code == 2 and complaint in err) if complaint else (code < 2 and "gradients" in out)


def test_a_path_that_is_no_folder_is_told(tmp_path, capsys):
    assert parity(tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().err
