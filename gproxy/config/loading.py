"""Loads objects by a schema; marshmallow's own `load` may also return lists, which its type says."""

from typing import Any, cast

from marshmallow import Schema


def loaded(schema: Schema, value: Any) -> dict[str, Any]:
    """Returns an object loaded by a schema. Raises ValidationError."""
    return cast("dict[str, Any]", schema.load(value))
