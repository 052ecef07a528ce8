"""Merging and validation of the layers of a configuration.

Parameters are set by the defaults in `config.py`, params.yaml, presets/<preset>.yaml, systems/<system>.yaml if the
prompt has a system, and the sections of prompt.yaml, in order of increasing priority. params.yaml holds the value of
every parameter, so the defaults matter only to users of the library.
"""

import difflib
import json
from typing import Any

from pydantic import BaseModel, ValidationError

from prolific_core import discovery
from prolific_core.config import AnySection, Config
from prolific_core.errors import InputError, quote, shorten

#: New names of renamed keys, by section and old name.
RENAMED = {
    "export.component_share": "component_fraction",
    "guidance.negative_scale": "options.csd.negative_scale",
    "guidance.view_words": "view_prompts",
    "logging.measure_every": "metrics_every",
    "time.at": "switch_at",
}


def merge(*layers: dict[Any, Any]) -> dict[Any, Any]:
    """Merge nested dictionaries, with later values overriding earlier ones.

    Args:
        *layers: Nested dictionaries, whose keys are not yet known to be strings. An empty section (`nerf:` with nothing
            below it) changes nothing.

    Returns:
        A new dictionary. Lists and scalars are replaced as a whole.
    """
    result: dict[Any, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            if isinstance(old, dict) and (value is None or isinstance(value, dict)):
                value = merge(old, value or {})
            result[key] = value
    return result


def resolve(*layers: tuple[str, Any]) -> Config:
    """Merge and validate the layers of a configuration.

    Each layer is first validated alone, so that the error message names the file that contains the mistake.

    Args:
        *layers: Pairs of a file name and the values read from the file. Later layers override earlier ones.

    Returns:
        The validated configuration.

    Raises:
        InputError: A layer is not a valid configuration. The message names the file, the key and the allowed values.
    """
    for name, values in layers:
        if not isinstance(values, dict):
            raise InputError(f"{name}: expected sections such as 'nerf:', got {type(values).__name__}")
        check(name, merge(values))
    return check(" + ".join(name for name, _ in layers), merge(*(values for _, values in layers)))


def check(name: str, values: Any, model: type[AnySection] = Config) -> AnySection:
    """Validate values against a section or the whole configuration.

    Args:
        name: The name of the file, for error messages.
        values: The values, which may be incomplete.
        model: The class to validate against; all of its fields must have defaults.

    Returns:
        An instance of `model`.

    Raises:
        InputError: A key is unknown or has been renamed, or a value is not allowed.
    """
    values = merge(model().model_dump(mode="json"), values)  # use this model's defaults for missing keys of sections
    try:
        text = json.dumps(values, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: not a set of parameters: {shorten(str(error))}") from None
    try:
        # The strict rules for JSON accept 1 for 1.0 and a list for a tuple, but neither "20" nor true for a number.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = shorten(".".join(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            parent, _, key = where.rpartition(".")
            if new := RENAMED.get(f"{parent.rpartition('.')[2]}.{key}"):
                raise InputError(f"{name}: {where} is now called {parent}.{new}") from None
            raise InputError(f"{name}: unknown key '{where}'{_suggest(model, first['loc'])}") from None
        raise InputError(
            f"{name}: {where} = {quote(first['input'])}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _suggest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return a hint that names the known key most similar to an unknown key, or all known keys if none is similar."""
    own = discovery.options(str(location[-2])) if "options" in location[:-2] else None
    if own:  # an option of a guidance method or composition
        model, location = own, location[-1:]
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if not (field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return ""
        model = field.annotation
    near = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(model.model_fields)}"
