from headrace.v1 import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeleteUserRequest(_message.Message):
    __slots__ = ("user_id", "profile_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    profile_id: str
    def __init__(self, user_id: _Optional[str] = ..., profile_id: _Optional[str] = ...) -> None: ...

class DeleteUserResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _events_pb2.Position
    def __init__(self, position: _Optional[_Union[_events_pb2.Position, _Mapping]] = ...) -> None: ...

class PutRuleRequest(_message.Message):
    __slots__ = ("rule",)
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: _events_pb2.Rule
    def __init__(self, rule: _Optional[_Union[_events_pb2.Rule, _Mapping]] = ...) -> None: ...

class PutRuleResponse(_message.Message):
    __slots__ = ("rule", "position")
    RULE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    rule: _events_pb2.Rule
    position: _events_pb2.Position
    def __init__(self, rule: _Optional[_Union[_events_pb2.Rule, _Mapping]] = ..., position: _Optional[_Union[_events_pb2.Position, _Mapping]] = ...) -> None: ...

class DeleteRuleRequest(_message.Message):
    __slots__ = ("rule_id", "reason")
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    reason: str
    def __init__(self, rule_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteRuleResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _events_pb2.Position
    def __init__(self, position: _Optional[_Union[_events_pb2.Position, _Mapping]] = ...) -> None: ...

class ListRulesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRulesResponse(_message.Message):
    __slots__ = ("rules",)
    RULES_FIELD_NUMBER: _ClassVar[int]
    rules: _containers.RepeatedCompositeFieldContainer[_events_pb2.Rule]
    def __init__(self, rules: _Optional[_Iterable[_Union[_events_pb2.Rule, _Mapping]]] = ...) -> None: ...
