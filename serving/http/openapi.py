"""The description of the JSON door for tools, made from the descriptors of the contract."""

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from serving.http.calls import Call

_SCALARS: Final[dict[int, dict[str, Any]]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}
_ERROR: Final = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string", "description": "as gRPC names it"},
        "message": {"type": "string"},
    },
}
_HEADERS: Final = (
    ("x-deadline-ms", "integer", "the answer is of no use later than so many milliseconds"),
    ("x-request-id", "string", "stands for the body's request_id where that is empty"),
)


def openapi(calls: Iterable[Call]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths = {call.path: {"post": _operation(call, schemas)} for call in calls}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": "v1"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": call.descriptor.name,
        "parameters": [
            {"name": name, "in": "header", "schema": {"type": kind}, "description": what}
            for name, kind, what in _HEADERS
        ],
        "requestBody": {"content": _content(_reference(call.request, schemas))},
        "responses": {
            "200": {"description": "OK", "content": _content(_reference(call.response, schemas))},
            "default": {
                "description": "refused or failed",
                "content": _content({"$ref": "#/components/schemas/Error"}),
            },
        },
    }


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(message: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a message, which is described with all that it holds."""
    if message.name not in schemas:
        schemas[message.name] = {}  # before its fields: messages may hold themselves
        properties = {field.name: _field(field, schemas) for field in message.fields}
        schemas[message.name] = {"type": "object", "properties": properties}
    return {"$ref": f"#/components/schemas/{message.name}"}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        value = _single(inner.fields_by_name["value"], schemas)
        return {"type": "object", "additionalProperties": value}
    single = _single(field, schemas)
    return {"type": "array", "items": single} if field.is_repeated else single


def _single(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        return _reference(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return dict(_SCALARS[field.cpp_type])
