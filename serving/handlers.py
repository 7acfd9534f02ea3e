"""Services to a gRPC server, such that a servicer may answer with bytes instead of a message."""

from collections.abc import Callable
from typing import Any

import grpc

Handler = Any  # grpc.RpcMethodHandler: its stubs do not say what it is made of


def serialized(answer: Any) -> bytes:
    """An answer as it goes over the wire: bytes are that already, messages know how.

    >>> serialized(b"as it is")
    b'as it is'
    """
    if type(answer) is bytes:
        return answer
    message: bytes = answer.SerializeToString()
    return message


def add_service(add: Callable[[Any, Any], None], servicer: Any, server: Any) -> None:
    """Adds a servicer to a server by its generated `add_..._to_server`.

    The handlers are the generated ones, but for `serialized` in place of the serializer.
    """
    add(servicer, _Registrar(server))


class _Registrar:
    """Stands in for a server towards generated code, and hands on what that registers."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing: the same handlers come by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Hands the handlers of a service on, each with our serializer."""
        ours = {name: _with_serialized(handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, ours)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, ours)


def _with_serialized(handler: Handler) -> Handler:
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        getattr(handler, kind),
        request_deserializer=handler.request_deserializer,
        response_serializer=serialized,
    )
