from headrace.v1 import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrackRequest(_message.Message):
    __slots__ = ("interaction",)
    INTERACTION_FIELD_NUMBER: _ClassVar[int]
    interaction: _events_pb2.Interaction
    def __init__(self, interaction: _Optional[_Union[_events_pb2.Interaction, _Mapping]] = ...) -> None: ...

class TrackResponse(_message.Message):
    __slots__ = ("position", "event_id")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    position: _events_pb2.Position
    event_id: str
    def __init__(self, position: _Optional[_Union[_events_pb2.Position, _Mapping]] = ..., event_id: _Optional[str] = ...) -> None: ...

class TrackManyResponse(_message.Message):
    __slots__ = ("accepted", "refused", "refusals", "positions")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    refused: int
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    positions: _containers.RepeatedCompositeFieldContainer[_events_pb2.Position]
    def __init__(self, accepted: _Optional[int] = ..., refused: _Optional[int] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., positions: _Optional[_Iterable[_Union[_events_pb2.Position, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("index", "reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
