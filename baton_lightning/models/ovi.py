"""Ovi's configuration file: the transformer that it describes, and the configuration of a trained transformer.

    {"video": {"dim": 3072, "num_heads": 24, "num_layers": 30, ...}, "audio": {...}}

A field with a value that this architecture does not support is refused, never ignored: weights that load are used as Ovi uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from baton_lightning.clip import ClipSpec
from baton_lightning.models.attention import EPS
from baton_lightning.models.branch import Branch
from baton_lightning.models.fused_branches import FusedBranches
from baton_lightning.models.patches import AudioPatches, VideoPatches
from baton_lightning.models.plan_attention import PlanOptions

BRANCHES = ("video", "audio")
COUNTS = ("dim", "ffn_dim", "freq_dim", "num_heads", "num_layers", "text_len", "text_dim", "in_dim")
FIXED: dict[str, tuple[Any, ...]] = {
    "qk_norm": (True,),
    "cross_attn_norm": (True,),
    "window_size": ([-1, -1], -1),
    "additional_emb_dim": (None,),
    "additional_emb_length": (None,),
}
"""Fields with the values of every released Ovi; other values describe another architecture."""
PLAN_KEYS = (".plan_attn.", "latent_mlp.")
"""Substrings of the keys that a plain Ovi does not have; these weights are initialised."""


def ovi_model(config: Mapping[str, Any], plan_attention: PlanOptions | None = None, plan_widths: tuple[int, int] = (0, 0)) -> FusedBranches:
    """The transformer that a configuration of Ovi describes, freshly initialised.

    Args:
        config: Sections ``video`` and ``audio`` with Ovi's field names.
        plan_attention: How the plan is read; ``None`` is plain Ovi.
        plan_widths: Channels of planned video and audio tokens.

    Raises:
        ValueError: If a field is missing, invalid, or not supported by this architecture.
    """

    def branch(name: str) -> Branch:
        c = validated_section(config, name)
        if name == "video":
            patches = VideoPatches(c["in_dim"], c["dim"], tuple(c["patch_size"]))
        else:
            patches = AudioPatches(c["in_dim"], c["dim"], unit=float(c.get("temporal_rope_scaling_factor", 1.0)))
        sizes = {"width": c["dim"], "depth": c["num_layers"], "num_heads": c["num_heads"], "ffn_width": c["ffn_dim"]}
        text = {"text_tokens": c["text_len"], "text_width": c["text_dim"]}
        return Branch(patches, **sizes, **text, frequency_width=c["freq_dim"], eps=float(c.get("eps", EPS)), plan=plan_attention)

    return FusedBranches(branch("video"), branch("audio"), plan_attention=plan_attention, plan_widths=plan_widths)


def validated_section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The section of a branch, after validation of every field."""
    section = config.get(name)
    if not isinstance(section, dict):
        raise ValueError(f"Ovi's configuration must have the section {name!r} with the fields of that branch, got {section!r}")

    def require(valid: bool, field: str, requirement: str) -> None:
        if not valid:
            got = repr(section[field]) if field in section else "none"
            raise ValueError(f"Ovi's configuration of the {name} branch must have the field {field!r}, {requirement}; got {got}")

    for field in COUNTS:
        require(is_count(section.get(field)), field, "a whole number above 0")
    axes, patch = (3, "three whole numbers above 0") if name == "video" else (1, "[1]")
    given = section.get("patch_size")
    valid = isinstance(given, list) and len(given) == axes and all(is_count(n) and (axes == 3 or n == 1) for n in given)
    require(valid, "patch_size", patch)
    require(section.get("out_dim", section["in_dim"]) == section["in_dim"], "out_dim", f"as many channels as in_dim ({section['in_dim']})")
    for field in ("eps", "temporal_rope_scaling_factor"):
        value = section.get(field, 1.0)
        require(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"), field, "a number above 0")
    for field, values in (FIXED | {"model_type": ("ti2v", "t2v") if name == "video" else ("t2a",)}).items():
        require(section.get(field, values[0]) in values, field, f"of which only {' or '.join(map(repr, values))} is supported")
    return section


def is_count(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def ovi_config(tensors: Mapping[str, Tensor], clip: ClipSpec, num_heads: int) -> dict[str, dict[str, Any]]:
    """Ovi's configuration of the weights of a :class:`~baton_lightning.models.dit.DualBranchDiT`.

    Args:
        tensors: Its weights, with or without plan layers.
        clip: Geometry that it was trained on.
        num_heads: Heads, which tensor shapes do not determine.
    """

    def section(name: str) -> dict[str, Any]:
        def shape(key: str) -> list[int]:
            return list(tensors[f"{name}_model.{key}"].shape)

        frequency, text = shape("time_embedding.0.weight"), shape("text_embedding.0.weight")
        channels = clip.video_channels if name == "video" else clip.audio_channels
        depth = len({key.split(".")[2] for key in tensors if key.startswith(f"{name}_model.blocks.")})
        own: dict[str, Any] = {"patch_size": list(clip.video_patch), "model_type": "ti2v"}
        if name == "audio":
            own = {"patch_size": [1], "model_type": "t2a", "temporal_rope_scaling_factor": clip.audio_scale / clip.video_patch[0]}
        return own | {
            "dim": frequency[0], "ffn_dim": shape("blocks.0.ffn.0.weight")[0], "freq_dim": frequency[1], "num_heads": num_heads,
            "num_layers": depth, "in_dim": channels, "out_dim": channels, "text_len": clip.text_tokens, "text_dim": text[1],
            "window_size": [-1, -1], "qk_norm": True, "cross_attn_norm": True, "eps": EPS,
        }  # fmt: skip

    return {name: section(name) for name in BRANCHES}
