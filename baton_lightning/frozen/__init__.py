"""Seams to other people's networks: language models, perceivers, codecs and text encoders."""
