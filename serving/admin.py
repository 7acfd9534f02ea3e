"""What operators and editors ask of a server: that a viewer is forgotten, that a rule holds."""

import math
from collections.abc import Callable
from typing import Any

from headrace.v1 import admin_pb2
from headrace.v1.admin_pb2_grpc import AdminServiceServicer

from features.clock import Clock
from features.codec import encode_erasure, rule_of
from features.erasure import Erasure, erase_event
from features.ids import viewer_hash
from features.log import LogError
from features.position import Position
from serving import wire
from serving.rules.editor import RuleEditor
from serving.track import LogUnavailableError, SteadyWriter, Tracker

RESERVE_S = 0.01  # of a call's time, kept for the answer itself

Context = Any  # grpc.aio.ServicerContext[...]


def _nobody(_: Context) -> str:
    return ""


class Eraser:
    """Has viewers forgotten: an event among the viewer's own, then an entry of the ledger.

    In this order, because the ledger says where the event lies. A call that fails between the two
    is made again; a features flow that meets an erasure without its entry writes the entry itself.
    """

    def __init__(
        self,
        tracker: Tracker,
        writer: SteadyWriter,
        ledger_topic: str,
        clock: Clock,
        *,
        timeout_s: float = 2.0,
    ) -> None:
        self._tracker = tracker
        self._writer = writer
        self._topic = ledger_topic
        self._clock = clock
        self._timeout_s = timeout_s

    async def erase(
        self, user_id: str, profile_id: str = "", budget_s: float = math.inf
    ) -> Position:
        """Returns the place of the erasure once event and ledger entry are in the log.

        Raises LogUnavailableError: then the viewer may or may not be forgotten; ask again.
        """
        at_ms = self._clock.now_ms()
        underway = await self._tracker.begin(erase_event(user_id, profile_id, at_ms))
        position = (await self._tracker.settled(underway, budget_s)).position
        viewer = viewer_hash(user_id, profile_id)
        erasure = Erasure(viewer, position.partition, position.offset, at_ms)
        await self._note(erasure, min(budget_s, self._timeout_s))
        return position

    async def _note(self, erasure: Erasure, limit_s: float) -> None:
        """Writes the entry of the ledger. Raises LogUnavailableError."""
        try:
            await self._writer.write(self._topic, erasure.key, encode_erasure(erasure), limit_s)
        except LogError as error:
            text = "the log did not take the whole erasure; ask for it again"
            raise LogUnavailableError(text) from error


class AdminServicer(AdminServiceServicer):
    """Answers operators. `author_of` names who calls; where it cannot, a rule's own word counts."""

    def __init__(
        self, eraser: Eraser, rules: RuleEditor, author_of: Callable[[Context], str] = _nobody
    ) -> None:
        self._eraser = eraser
        self._rules = rules
        self._author_of = author_of

    async def DeleteUser(  # noqa: N802
        self, request: admin_pb2.DeleteUserRequest, context: Context
    ) -> admin_pb2.DeleteUserResponse:
        """Has one viewer forgotten; answers when the log has it."""
        user_id, profile_id = wire.viewer_of(request)
        position = await self._eraser.erase(user_id, profile_id, _budget_s(context))
        return wire.delete_user_response(position)

    async def PutRule(  # noqa: N802
        self, request: admin_pb2.PutRuleRequest, context: Context
    ) -> admin_pb2.PutRuleResponse:
        """Sets a rule or changes it; answers when the log has it."""
        rule = rule_of(request.rule)
        author = self._author_of(context) or rule.author
        put, position = await self._rules.put(rule, author, _budget_s(context))
        return wire.put_rule_response(put, position)

    async def DeleteRule(  # noqa: N802
        self, request: admin_pb2.DeleteRuleRequest, context: Context
    ) -> admin_pb2.DeleteRuleResponse:
        """Takes a rule away; answers when the log has it."""
        rule_id, reason = wire.rule_removal_of(request)
        author = self._author_of(context)
        position = await self._rules.delete(rule_id, author, reason, _budget_s(context))
        return wire.delete_rule_response(position)

    async def ListRules(  # noqa: N802
        self,
        request: admin_pb2.ListRulesRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> admin_pb2.ListRulesResponse:
        """The rules that this server goes by, in force or to come."""
        return wire.list_rules_response(self._rules.rules())


def _budget_s(context: Context) -> float:
    """Seconds that a call may take; infinite where the client set no deadline."""
    remaining_s: float | None = context.time_remaining()
    return math.inf if remaining_s is None else remaining_s - RESERVE_S
