from __future__ import annotations

from collections.abc import Callable

import pytest
from jsonargparse import ArgumentParser

from baton_lightning.frozen.codecs import AudioCodec, VideoCodec
from baton_lightning.frozen.llm import TextLLM
from baton_lightning.frozen.perceivers import AudioPerceiver, VideoPerceiver
from baton_lightning.frozen.text import TextEncoder


class Asks:
    def __init__(
        self,
        llm: Callable[[], TextLLM] | None = None,
        text: Callable[[], TextEncoder] | None = None,
        eyes: Callable[[], VideoPerceiver] | None = None,
        ears: Callable[[], AudioPerceiver] | None = None,
        video: Callable[[], VideoCodec] | None = None,
        audio: Callable[[], AudioCodec] | None = None,
        built: VideoPerceiver | None = None,
    ) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})


@pytest.mark.parametrize(
    ("role", "path", "arguments"),
    [
        ("llm", "llm.TinyLLM", {"width": 32, "vocabulary": ["red"]}),
        ("text", "text.TinyText", {"width": 32, "vocabulary": ["red"]}),
        ("eyes", "siglip.TinySiglip", {"grid": [2, 2]}),
        ("eyes", "dinov3.TinyDinov3", {"grid": [2, 2]}),
        ("ears", "wavtokenizer.TinyEncodec", {"rate": 50}),
        ("video", "wan_vae.TinyWanVAE", {"channels": 4}),
        ("audio", "mmaudio_vae.TinyMMAudio", {"num_latents": 157}),
    ],
)
def test_every_network_can_be_named_in_a_configuration_as_a_factory(role, path, arguments):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Asks, "asks")
    spec = {"class_path": f"baton_lightning.frozen.{path}", "init_args": arguments}
    factory = getattr(parser.instantiate(parser.parse_object({"asks": {role: spec}})).asks, role)
    first, second = factory(), factory()
    assert first is not second and type(first).__module__ == f"baton_lightning.frozen.{path.split('.')[0]}"


def test_a_perceiver_can_be_named_as_an_instance_too():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Asks, "asks")
    spec = {"class_path": "baton_lightning.frozen.siglip.TinySiglip", "init_args": {"grid": [2, 2]}}
    assert parser.instantiate(parser.parse_object({"asks": {"built": spec}})).asks.built.grid == (2, 2)
