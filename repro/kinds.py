"""Whether a value is of the kind that a dataclass's field announces: what a person or a file gives is not always."""

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Union, get_args, get_origin, get_type_hints


def find_misfit(cls: type, values: Mapping[str, object]) -> str | None:
    """The first of ``values`` that its field of the dataclass ``cls`` cannot hold, as a part of a sentence, or None.

    A whole number serves as a floating-point one and a list as a tuple; true and false are no numbers.
    """
    hints = get_type_hints(cls)
    for field in fields(cls):
        if field.name in values and not _fits(values[field.name], hints[field.name]):
            hint = hints[field.name]
            kind = hint.__name__ if isinstance(hint, type) else str(hint)
            return f"{field.name} = {values[field.name]!r}, which should be {kind}"
    return None


def _fits(value: object, hint: object) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if len(inside) == 2 and inside[1] is Ellipsis:
            return all(_fits(one, inside[0]) for one in value)
        return len(value) == len(inside) and all(map(_fits, value, inside))
    kind = origin or hint
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or kind is type(None):
        return value is None
    return isinstance(value, kind) if isinstance(kind, type) else True
