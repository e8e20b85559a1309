"""What generators need of the OpenAPI document, and the TypeScript client that is made of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from bindings.domain.binding import EventKind
from bindings.web.api import openapi, samples
from bindings.webhooks import messages
from tests.web.conftest import alone

CLIENTS = Path(__file__).parents[2] / "clients"


def _message_schema(kind: EventKind) -> dict[str, Any]:
    """Return the schema of a message, in which every field is known and needed."""
    document = json.loads(openapi.document_bytes())
    body = document["webhooks"][messages.type_of(kind)]["post"]["requestBody"]["content"]["application/json"]
    strict: dict[str, Any] = body["schema"] | {"additionalProperties": False, "components": document["components"]}
    for schema in strict["components"]["schemas"].values():
        if "properties" in schema:
            schema |= {"additionalProperties": False, "required": list(schema["properties"])}
    return strict


@pytest.mark.parametrize("kind", EventKind)
def test_message_of_each_kind_is_what_the_document_says(kind: EventKind) -> None:
    message = json.loads(messages.body_of(samples.event_of(kind)))
    validator = jsonschema_rs.Draft202012Validator(_message_schema(kind), validate_formats=True)
    assert [str(error) for error in validator.iter_errors(message)] == []


def _fields(name: str) -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = openapi.document()["components"]["schemas"][name]["properties"]
    return fields


@pytest.mark.parametrize("name", ["Bind", "Search", "Trace", "Replace", "UnbindAll", "Problem"])
def test_optional_fields_have_no_default_that_a_generator_takes_for_a_needed_field(name: str) -> None:
    assert [field for field, schema in _fields(name).items() if "default" in schema] == []


def test_description_of_a_field_says_what_holds_if_it_is_left_out() -> None:
    assert _fields("Search")["limit"]["anyOf"][0]["description"].endswith("If left out: 50.")


@pytest.mark.parametrize("name", ["Bind", "Check", "Lookup", "Replace", "Search", "Trace", "Unbind", "UnbindAll"])
def test_optional_fields_may_be_null(name: str) -> None:
    """Generated clients, such as those of Java, send null for what their caller has left out."""
    schema = openapi.document()["components"]["schemas"][name]
    optional = {*schema["properties"]} - {*schema.get("required", ())}
    nullable = {field for field in optional if {"type": "null"} in schema["properties"][field].get("anyOf", ())}
    assert nullable == optional


def test_found_bindings_have_the_counterpart() -> None:
    [reference] = _fields("ActiveBindings")["data"]["items"].values()
    schema = openapi.document()["components"]["schemas"][reference.rpartition("/")[2]]
    assert [*schema["allOf"][1]["properties"]] == ["counterpart", "caller_id"]


def test_codes_and_ids_have_their_types() -> None:
    fields = _fields("Problem")
    assert {"phone-in-use", "busy", "not-found", "internal"} < set(fields["code"]["enum"])
    assert fields["binding_id"]["anyOf"][0] == {"type": "string", "format": "uuid"}
    assert _fields("Binding")["id"]["format"] == "uuid"


@pytest.mark.soak
@pytest.mark.processes
def test_typescript_client_compiles_and_works(sqlite_url: str, tmp_path: Path) -> None:
    """The example binds, looks up, meets a conflict and unbinds; `tsc` checks its types strictly."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("THE TYPESCRIPT CLIENT WAS NOT TESTED: it needs node and npm")
    folder = tmp_path / "typescript"
    shutil.copytree(CLIENTS / "typescript", folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "openapi.json").write_bytes(openapi.document_bytes())
    with alone(sqlite_url) as running:
        key = running.key("app", "rides")["Authorization"].removeprefix("Bearer ")
        environment = os.environ | {"BINDINGS_URL": running.url, "BINDINGS_KEY": key}
        for command in ("npm ci", "npm run generate", "npm run check", "node dist/example.js"):
            completed = subprocess.run(
                command.split(),
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert completed.returncode == 0, f"{command}: {completed.stdout}{completed.stderr}"
        assert completed.stdout == "ok\n"
        assert running.service.stats()["by_state"] == {"unbound": 1}
