"""Rewrites error messages of the parser as one readable line, with the nearest valid name or the type that a key takes."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from pathlib import Path

from baton_lightning import trust

HOME = Path(__file__).resolve().parents[1]
"""Folder that contains the library."""
UNKNOWN = (
    re.compile(r"Key '(?P<key>[^']+)' is not expected"),
    re.compile(r"[Uu]nrecognized arguments?: --(?P<key>[\w.+]+)"),
    re.compile(r"does not accept nested key '(?P<key>[^']+)'"),
    re.compile(r"Option '(?P<key>[^']+)' is not accepted"),
    re.compile(r"does not accept option '(?P<key>[^']+)'"),
)


def explain(message: str, keys: list[str]) -> str:
    """A parser's error message in one line, with the nearest valid name if a name is misspelt."""
    flat = " ".join(message.split())
    if denied := re.search(r"Importing '([^']+)' is not allowed", flat):
        return trust.refusal("the configuration", denied[1])
    found = next((m for pattern in UNKNOWN if (m := pattern.search(flat))), None)
    if found is not None:
        return misspelt_key(found["key"], keys + parameters_of_named_classes(flat))
    if interpolation := re.search(r"Interpolation key '\.*([^']+)' not found(?: \(resolved to '[^']+'\))? full_key: (\S+)", flat):
        key = re.sub(r"^(fit|validate|test|predict)\.", "", interpolation[2])
        return f"`{key}` refers to ${{{interpolation[1]}}}, which the configuration does not have; check the spelling"
    missing = re.search(r"[Nn]o module named '?([\w.]+)|has no attribute '?(\w+)", flat)
    if "class_path" in flat or "Not a valid subclass" in flat or "Import" in flat or missing:
        named = re.search(r"class_path'?\"?[:=]? ?'?\"?([\w.]+)|path '([\w.]+)'|value: ([\w.]+)", flat)
        name = next((g for g in (named.groups() if named else ()) if g), None)
        if name and not importable(name):
            return misspelt_class(name, *classes_of(name.rpartition(".")[0]))
    if value := explain_choice(message) or explain_value(message):
        return value
    if short := explain_class(message):
        return short
    return flat if len(flat) < 600 else flat[:600] + " ..."


def place(message: str) -> tuple[str, str]:
    """The key that a parser's error is about, the deepest of nested ones, and the error about it."""
    keys: list[str] = []
    rest, deepest = message, -1
    for found in re.finditer(r'^( *).*?Parser key "([^"]+)":', message, re.MULTILINE):
        if (depth := len(found[1])) > deepest:
            keys, deepest, rest = [*keys, found[2]], depth, message[found.start() :]
    return ".init_args.".join(keys), rest


def explain_choice(message: str) -> str | None:
    """Error about a key that takes one of a few words, with the nearest of them; ``None`` if the error is about something else."""
    key, rest = place(message)
    choices = [word.strip(" '") for found in re.findall(r"typing\.Literal\[([^\]]*)\]", rest) for word in found.split(",")]
    given = re.search(r"(?:Given|Got) value: (\S+)", rest)
    if not (key and choices and given):
        return None
    choices, got = list(dict.fromkeys(choices)), given[1].strip("'.")
    near = difflib.get_close_matches(got, choices, 1)
    hint = f"did you mean {near[0]}?" if near else "give one of these"
    return f"`{key}`: got {got}, which must be one of {', '.join(choices)}; {hint}"


def explain_class(message: str) -> str | None:
    """Error about a key that takes a class with arguments; ``None`` if the error is about something else."""
    key, rest = place(message)
    given = re.search(r"(?:Given|Got) value: (.+)", rest)
    if not key or given is None or not ("Subtypes" in rest or "subclass spec" in rest):
        return None
    why = re.search(r"the following arguments are required: ([\w, ]+)", rest)
    if why:
        return f"`{key}` needs the arguments {why[1].strip()}; give them below init_args"
    return f"`{key}` must be a class with its arguments, `class_path: ...` and `init_args: ...`, got {given[1][:80]}"


KINDS = {
    "Sequence": ("a list", "[{}]"),
    "list": ("a list", "[{}]"),
    "tuple": ("a list", "[{}]"),
    "dict": ("a mapping", "{{name: 1}}, with a blank after each colon"),
    "Mapping": ("a mapping", "{{name: 1}}, with a blank after each colon"),
    "int": ("a whole number", "8"),
    "float": ("a number", "0.5"),
    "bool": ("true or false", "true"),
    "str": ("a text", "name"),
    "timedelta": ("a time", "01:30:00"),
}
"""Type of a plain value -> its name, and an example. The example of a list contains the wrong value."""


def explain_value(message: str) -> str | None:
    """Replaces a parser's error about a plain value by the type that the key takes, with an example.

    Args:
        message: The error message with its line breaks. Nested keys are indented.

    Returns:
        ``None`` if the error is not about a plain value.
    """
    key, rest = place(message)
    if not key:
        return None
    one = re.search(r"Expected a <class '([\w.]+)'>\. Got value: (.*?)(?:\. Got value: .*)?$", rest, re.MULTILINE)
    union = re.search(r"Subtypes: \[(.*)\]\n(?:.*\n)*? *Given value: (.*)", rest)
    first = min((match for match in (one, union) if match), key=lambda match: match.start(), default=None)
    if first is None:
        return None
    outer = re.sub(r"\[.*?\]+", "", first[1])  # dict[str, float] -> dict
    names = [name.rpartition(".")[2] for name in re.findall(r"[\w.]+", re.sub(r"<class '([\w.]+)'>", r"\1", outer))]
    if not KINDS.keys() >= set(names) - {"NoneType"} or "." in "".join(re.findall(r"\[(.*?)\]", first[1])):
        return None
    kinds = [KINDS[name] for name in names if name != "NoneType"]
    expected = " or ".join(dict.fromkeys(f"{kind}, e.g. {example.format(first[2])}" for kind, example in kinds))
    return f"`{key}`: got {first[2]}, which must be {expected}"


def importable(name: str) -> bool:
    """Whether a dotted name can be imported."""
    module, _, attribute = name.rpartition(".")
    try:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def classes_of(module: str) -> tuple[str, list[str]]:
    """The reason why a module cannot be imported, or the names of its classes."""
    try:
        return "", [name for name, value in vars(importlib.import_module(module)).items() if inspect.isclass(value) and name != "Any"]
    except (ImportError, ValueError) as error:
        return str(error), []


MOVED = {"baton_lightning.runs.deepspeed_cpu": "baton_lightning.construction.deepspeed_cpu"}
"""Former name of a module whose classes are named in configurations -> its present name."""


def present_name(class_path: str) -> str:
    """Present class path of a class that may have been moved."""
    module, _, attribute = class_path.rpartition(".")
    return f"{MOVED[module]}.{attribute}" if module in MOVED else class_path


def misspelt_class(name: str, why: str, classes: list[str]) -> str:
    """Error message about a misspelt class path, with a suggestion.

    Args:
        name: The class path.
        why: Reason why its module cannot be imported; empty if it can.
        classes: Names of the classes of its module.
    """
    module, _, attribute = name.rpartition(".")
    if (now := present_name(name)) != name:
        hint = f"it is `{now}` now"
    elif why:
        hint = f"the module `{module}` cannot be imported ({why}); check the spelling"
    elif near := difflib.get_close_matches(attribute, classes, 1, 0.5):
        hint = f"did you mean `{module}.{near[0]}`?"
    elif found := namesakes(attribute):
        hint = f"did you mean `{found[0]}`?"
    else:
        inner = sorted(file.stem for file in (HOME / module.replace(".", "/")).glob("[a-z]*.py"))
        what = f"`{module}` has {', '.join(sorted(classes)[:8])}" if classes else f"`{module}` has no class of its own"
        hint = f"{what}; its modules are {', '.join(inner)}" if inner else what
    return f"class_path must name a class that can be imported, got `{name}`; {hint}"


def namesakes(name: str) -> list[str]:
    """Class paths of the library whose class name is similar to ``name``. Source code is searched, nothing is imported."""
    found: dict[str, str] = {}
    for package in ("baton_lightning", *trust.WORKBENCH):
        for file in sorted((HOME / package).rglob("*.py")):
            module = ".".join(file.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__")
            found |= {one: f"{module}.{one}" for one in re.findall(r"^class (\w+)", file.read_text(), re.MULTILINE)}
    return [found[near] for near in difflib.get_close_matches(name, found, 2, 0.8)]


def misspelt_key(key: str, known: list[str]) -> str:
    """Error message about a misspelt key, with the nearest of the known keys."""
    last = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, 1) or [last[n] for n in difflib.get_close_matches(key.rpartition(".")[2], last, 1)]
    hint = f"; did you mean `{near[0]}`?" if near else "; `--help` lists the keys"
    return f"the configuration has no key `{key}`{hint}"


def parameters_of_named_classes(message: str) -> list[str]:
    """Parameters of the classes that a message names, as candidates for a misspelt key."""
    keys: list[str] = []
    for name in re.findall(r"[a-z_]\w*(?:\.\w+)+", message):
        module, _, attribute = name.rpartition(".")
        if importable(name) and inspect.isclass(getattr(importlib.import_module(module), attribute)):
            keys += list(inspect.signature(getattr(importlib.import_module(module), attribute)).parameters)
    return keys
