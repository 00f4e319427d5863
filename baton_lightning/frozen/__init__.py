"""Adapters of pretrained networks: language models, perceivers, codecs and text encoders."""
