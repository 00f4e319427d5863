"""`README.md` of a folder of weights: contents, provenance and licences."""

from __future__ import annotations

from typing import Any

LICENCES = {
    "Ovi": "Apache-2.0 (code and weights, Character.AI)",
    "MMAudio": "CC BY-NC 4.0: the audio latents belong to MMAudio's VAE, whose weights are not for commercial use",
    "Wan2.2 VAE": "Apache-2.0",
    "Qwen3": "Apache-2.0",
    "SigLIP2": "Apache-2.0",
    "WavTokenizer": "MIT",
}
"""Network -> licence stated by its authors. Exported weights may be derived from, or may require, these networks."""


def model_card(title: str, components: dict[str, dict[str, Any]], provenance: dict[str, Any], use: str, networks: list[str]) -> str:
    """Text of a model card.

    Args:
        title: Heading.
        components: Component -> its numbers of ``tensors``, ``parameters`` and ``bytes``.
        provenance: Label -> value; ``None`` is omitted.
        use: A command or a line of configuration that uses the folder.
        networks: Keys of :data:`LICENCES` that apply.
    """
    rows = [f"| `{name}/` | {c['tensors']:,} | {c['parameters']:,} | {c['bytes']:,} |" for name, c in components.items()]
    return "\n".join(
        [
            "---", "library_name: baton_lightning", "tags: [video-generation, audio-generation]", "---", "", f"# {title}", "",
            "| component | tensors | parameters | bytes |", "|---|---|---|---|", *rows, "",
            "## Use", "", "```", use, "```", "",
            "## Provenance", "", *[f"* {label}: `{value}`" for label, value in provenance.items() if value is not None], "",
            "## Licences", "", *[f"* {name}: {LICENCES[name]}" for name in networks], "",
        ]
    )  # fmt: skip
