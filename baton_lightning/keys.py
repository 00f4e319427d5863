"""Finds unknown keys and classes in settings without the parser, by comparison with the source code of the classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from baton_lightning import settings, settings_layers, signatures
from baton_lightning.annotations import fits
from baton_lightning.explain import misspelt_class, misspelt_key
from baton_lightning.settings_layers import Layer, NeedsParser

TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
SECTIONS = {"clip": "baton_lightning.clip.ClipSpec", "run": "baton_lightning.runs.run_spec.RunSpec"}
WORDS = {"config": "Any", "seed_everything": "bool | int", "base": "str | None", "resume": "Literal['auto', 'changed', 'never']"}
OF_THE_PARSER = ("model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule")
"""Arguments of the trainer's methods that are not options."""


def known(verb: str) -> dict[str, signatures.Arguments]:
    """Section -> keys that a verb accepts; keys outside of sections are under the empty name.

    Raises:
        Unclear: If a library defines them elsewhere.
    """
    try:
        found = {section: signatures.arguments(name) for section, name in SECTIONS.items()}
        found["trainer"] = signatures.parameters(TRAINER, "__init__")
        own = signatures.parameters(TRAINER, verb)
    except signatures.Missing as error:
        raise NeedsParser from error
    if own is None or None in found.values():
        raise NeedsParser
    words: signatures.Arguments = {name: ast.parse(text, mode="eval").body for name, text in WORDS.items()}
    words |= {name: None for name in (*settings_layers.CLASSES, *settings_layers.SECTIONS)}
    words |= {name: annotation for name, annotation in own.items() if name not in OF_THE_PARSER}
    return {"": words} | {section: names for section, names in found.items() if names is not None}


@dataclass
class Walk:
    """Checks the settings of all layers. Values that a later layer replaces are not checked.

    Args:
        known: Section -> keys.
        last: All layers merged.
        sure: Whether the parser certainly accepts the overrides, and no value of the files is certain to be refused.
    """

    known: dict[str, signatures.Arguments]
    last: dict[str, Any]
    sure: bool = True

    def complaints(self, layers: list[Layer]) -> Iterator[str]:
        """Yields one error line for each unknown key or class.

        Raises:
            Unclear: If one error would have to name several keys.
        """
        below: dict[str, Any] = {}
        for layer in layers:
            below = settings.merge(below, layer.values)
            for key, value in layer.values.items():
                section = key.removesuffix("+")
                if section not in self.known[""]:
                    yield misspelt_key(".".join([section, *only_path(value)]), self.names)
                elif section in self.known and isinstance(value, dict):
                    for inner, given in value.items():
                        name = inner.removesuffix("+")
                        if name not in self.known[section]:
                            yield misspelt_key(".".join([section, inner, *only_path(given)]), self.names)
                            continue
                        now, last = below[section].get(name), in_mapping(self.last.get(section), name)
                        yield from self.argument(given, now, last, self.known[section][name], layer.word)
                else:
                    yield from self.argument(value, below.get(section), self.last.get(section), self.known[""][section], layer.word)

    @property
    def names(self) -> list[str]:
        """All keys outside of classes, as candidates for a misspelt key."""
        return [*self.known[""], *(f"{section}.{key}" for section, keys in self.known.items() if section for key in keys)]

    def argument(self, value: Any, now: Any, last: Any, annotation: ast.expr | None, word: bool) -> Iterator[str]:
        """Yields errors in an argument's value, which may be a class with arguments of its own, or a list of classes.

        Args:
            value: Value in a layer.
            now: Value after merging this layer with earlier ones.
            last: Value after merging all layers.
            annotation: Annotation of the argument.
            word: Whether the layer is an override of the command line.
        """
        if isinstance(value, list) and isinstance(last, list):
            for entry in value:
                if entry in last:
                    yield from self.argument(entry, entry, entry, None, word)
        elif isinstance(value, dict):
            yield from self.mapping(value, now, last, word)
        else:
            self.weigh(value, annotation, word)
            if value == last or (isinstance(last, list) and value in last):
                yield from self.class_named(value, annotation)

    def class_named(self, value: Any, annotation: ast.expr | None) -> Iterator[str]:
        """Yields the error in a class path that is given without a mapping, e.g. in ``--trainer.callbacks+=``."""
        named = isinstance(value, str) and value.partition(".")[0] in (*settings_layers.OWN, *settings_layers.LIBRARIES)
        if not named or not all(map(str.isidentifier, value.split("."))) or fits(value, annotation) is not None:
            return
        try:
            signatures.located(value)
        except signatures.Missing as missing:
            yield misspelt_class(value, missing.why, missing.names)

    def weigh(self, value: Any, annotation: ast.expr | None, word: bool) -> None:
        """Updates ``sure`` for a plain value that the parser may refuse."""
        if isinstance(value, str) and "${" in value:
            return
        if word and value is None:
            self.sure = False
            return
        verdict = fits(value, annotation)
        if word and verdict is not True:
            try:
                verdict = fits(settings.parsed(f"value: {value}", "")["value"], annotation)
            except ValueError:
                verdict = None
        self.sure &= verdict is True or (verdict is None and not word)

    def mapping(self, values: dict[str, Any], now: Any, last: Any, word: bool) -> Iterator[str]:
        """Yields errors in a mapping, see :meth:`argument`."""
        if not (isinstance(now, dict) and isinstance(last, dict)) or now.get("class_path") != last.get("class_path"):
            return  # a later layer names another class, and these are not its arguments
        name = now.get("class_path")
        if not isinstance(name, str) or "${" in name or "." not in name:
            self.sure &= not word
            return
        try:
            taken = signatures.arguments(name)
        except signatures.Missing as missing:
            yield misspelt_class(name, missing.why, missing.names)
            return
        self.sure &= not word or set(values) == {"init_args"}
        given = values.get("init_args")
        for key, value in given.items() if isinstance(given, dict) else ():
            argument = key.removesuffix("+")
            if taken is not None and argument not in taken:
                yield misspelt_key(argument, [*self.names, *taken])
            below, above = (in_mapping(part.get("init_args"), argument) for part in (now, last))
            yield from self.argument(value, below, above, None if taken is None else taken.get(argument), word)


def only_path(values: Any) -> list[str]:
    """The nested keys of a value that was given as one override, ``--a.b.c=1``.

    Raises:
        Unclear: If a level has several keys.
    """
    if not isinstance(values, dict):
        return []
    if len(values) != 1:
        raise NeedsParser
    key, value = next(iter(values.items()))
    return [str(key), *only_path(value)]


def in_mapping(values: Any, key: str) -> Any:
    """The value of a key; ``None`` if ``values`` is not a mapping."""
    return values.get(key) if isinstance(values, dict) else None
