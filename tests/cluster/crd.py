"""Checks a manifest against KubeRay's custom resource definitions, as the API server would.

In its order: defaults first, then the schema (a key that it does not name is refused, as by `kubectl apply`),
then the rules in CEL.
"""

import copy
from pathlib import Path

import celpy
import jsonschema
import yaml
from celpy.adapter import json_to_cel

Schema = dict


def load_schemas(folder: Path) -> dict[str, Schema]:
    """Schema by kind, of the version v1."""
    schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]  # the pure Python one takes 20 s
        (v1,) = (version for version in spec["versions"] if version["name"] == "v1")
        schemas[spec["names"]["kind"]] = v1["schema"]["openAPIV3Schema"]
    return schemas


def problems(manifest: dict, schema: Schema) -> list[str]:
    """What the API server would refuse; empty for a good manifest."""
    manifest = with_defaults(copy.deepcopy(manifest), schema)
    validator = jsonschema.Draft202012Validator(strict(schema))
    found = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(manifest)]
    return found or list(broken_rules(manifest, schema, "$"))


def with_defaults(value: object, schema: Schema) -> object:
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if "default" in child:
                value.setdefault(name, copy.deepcopy(child["default"]))
    for name, child, child_schema in children(value, schema):
        value[name] = with_defaults(child, child_schema)  # type: ignore[index]
    return value


def children(value: object, schema: Schema) -> list[tuple]:
    """(name or index, value, schema) of everything below `value` that the schema describes."""
    if isinstance(value, list) and "items" in schema:
        return [(i, item, schema["items"]) for i, item in enumerate(value)]
    if isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        return [
            (k, v, named.get(k, others)) for k, v in value.items() if isinstance(named.get(k, others), dict)
        ]
    return []


def strict(schema: Schema) -> Schema:
    """The same as JSON Schema that knows no key but the named ones."""
    if not isinstance(schema, dict):
        return schema
    out = {k: v for k, v in schema.items() if not k.startswith("x-") and k not in ("default", "format")}
    if schema.get("x-kubernetes-int-or-string"):
        out = {k: v for k, v in out.items() if k not in ("anyOf", "pattern")} | {
            "type": ["integer", "string"]
        }
    if "properties" in schema:
        out["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = strict(out[key])
    if schema.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


def broken_rules(value: object, schema: Schema, where: str):
    """Messages of x-kubernetes-validations that do not hold. Rules about changes have nothing to compare."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"]:
            continue
        environment = celpy.Environment()
        program = environment.program(environment.compile(rule["rule"]))
        if not program.evaluate({"self": json_to_cel(value)}):
            yield f"{where}: {rule['message']}"
    for name, child, child_schema in children(value, schema):
        yield from broken_rules(child, child_schema, f"{where}.{name}")
