"""A page in one file: its style and its script are inside, and a policy lets no other script run and nothing be loaded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from string import Template

MOST_BYTES = 10_000_000
"""Largest size of a page."""


def document(template: str, values: Mapping[str, str]) -> str:
    """HTML of a page. Texts in ``values`` are inert HTML, see :mod:`baton_lightning.evaluation.report.inert`.

    Args:
        template: File of the template, beside this module.
        values: Name -> content of its other places than ``style``, ``script`` and ``policy``.
    """
    page, script, style = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in (template, "page.js", "page.css"))
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(page).substitute(values, script=script, style=style, policy=policy)
