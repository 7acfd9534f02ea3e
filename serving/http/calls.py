"""Which path is which call, and messages as JSON: protobuf's own mapping.

Requests may name fields as the contract does (`user_id`) or in the mapping's way (`userId`);
answers name them as the contract does. Fields that are zero or empty are left out, numbers of 64
bits are strings.
"""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from headrace.v1 import ingest_pb2, recommender_pb2

from serving.errors import InvalidRequestError

MAX_DEPTH: Final = 16  # of JSON; the deepest request has 5
_MAX_COMPLAINT: Final = 300  # characters of what the parser says


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API."""

    path: str
    descriptor: MethodDescriptor

    @property
    def method(self) -> str:
        """Its full name, as gRPC has it."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def request(self) -> Descriptor:
        """What it takes."""
        return self.descriptor.input_type

    @property
    def response(self) -> Descriptor:
        """What it answers with."""
        return self.descriptor.output_type


_SERVICES: Final = (
    recommender_pb2.DESCRIPTOR.services_by_name["RecommendationService"],
    ingest_pb2.DESCRIPTOR.services_by_name["IngestService"],
)
_PATHS: Final = {
    "/v1/recommend": "Recommend",
    "/v1/recommend:batch": "RecommendBatch",
    "/v1/similar-items": "SimilarItems",
    "/v1/trending": "Trending",
    "/v1/continue-watching": "ContinueWatching",
    "/v1/explain": "Explain",
    "/v1/track": "Track",
}
_METHODS: Final = {
    name: method for service in _SERVICES for name, method in service.methods_by_name.items()
}
CALLS: Final = tuple(Call(path, _METHODS[name]) for path, name in _PATHS.items())


def request_of(call: Call, body: bytes) -> Any:
    """The message that a body holds; an empty one holds an empty one. Raises InvalidRequestError.

    >>> request_of(CALLS[0], b'{"userId": "ann", "count": 3}').count
    3
    """
    message = GetMessageClass(call.request)()
    try:
        json_format.Parse(body.decode() or "{}", message, max_recursion_depth=MAX_DEPTH)
    except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        complaint = str(error)[:_MAX_COMPLAINT]
        raise InvalidRequestError("the body", f"a {call.request.name} as JSON", complaint) from None
    return message


def json_of(call: Call, answer: Message | bytes) -> bytes:
    """An answer, a message or the bytes of one, as JSON."""
    if isinstance(answer, bytes):
        answer = GetMessageClass(call.response).FromString(answer)
    text = json_format.MessageToJson(answer, preserving_proto_field_name=True, indent=None)
    return text.encode() + b"\n"
