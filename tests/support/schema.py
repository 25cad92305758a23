"""Owns a small check of JSON values against the schemas of an OpenAPI 3.1 document.

It knows the keywords that the gateway's own schemas use and refuses those it does not know, so that nothing
passes unlooked at. The status tests call it.
"""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
SILENT = {"title", "description", "format", "default", "examples", "example", "deprecated"}
KNOWN = SILENT | {
    "$ref", "type", "properties", "required", "items", "anyOf", "enum", "const", "additionalProperties",
    "minimum", "maximum", "pattern", "maxLength", "minLength",
}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], spec: dict[str, Any], at: str = "$") -> list[str]:
    """Every place where `value` is not what `schema` (of the document `spec`) says."""
    unknown = schema.keys() - KNOWN
    assert not unknown, f"{at}: this check does not know {unknown}"
    if "$ref" in schema:
        return faults(value, _resolve(schema["$ref"], spec), spec, at)
    if "anyOf" in schema:
        tries = [faults(value, option, spec, at) for option in schema["anyOf"]]
        return [] if [] in tries else [fault for found in tries for fault in found]
    found = _faults_of_type(value, schema, at) + _faults_of_limits(value, schema, at)
    if isinstance(value, dict) and not found:
        found += _faults_of_object(value, schema, spec, at)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += faults(item, schema["items"], spec, f"{at}[{index}]")
    return found


def _resolve(reference: str, spec: dict[str, Any]) -> dict[str, Any]:
    node: Any = spec
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return dict(node)


def _faults_of_type(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    kind = schema.get("type")
    if kind is None:
        return []
    is_wrong_bool = isinstance(value, bool) and kind != "boolean"
    if is_wrong_bool or not isinstance(value, TYPES[kind]):
        return [f"{at}: {value!r} is no {kind}"]
    return []


def _faults_of_limits(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    wrong = [
        "enum" in schema and value not in schema["enum"],
        "const" in schema and value != schema["const"],
        isinstance(value, int | float) and value < schema.get("minimum", value),
        isinstance(value, int | float) and value > schema.get("maximum", value),
        isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value),
        isinstance(value, str) and len(value) > schema.get("maxLength", len(value)),
    ]
    return [f"{at}: {value!r} is outside {schema}"] if any(wrong) else []


def _faults_of_object(value: dict[str, Any], schema: dict[str, Any], spec: dict[str, Any], at: str) -> list[str]:
    properties = schema.get("properties", {})
    found = [f"{at}: {name} is missing" for name in schema.get("required", []) if name not in value]
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            found += faults(item, properties[name], spec, f"{at}.{name}")
        elif others is False:
            found.append(f"{at}: {name} is not described")
        elif isinstance(others, dict):
            found += faults(item, others, spec, f"{at}.{name}")
    return found
