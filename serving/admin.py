"""What operators ask of a server: that a viewer is forgotten."""

import asyncio
import math
from typing import Any

from headrace.v1 import admin_pb2
from headrace.v1.admin_pb2_grpc import AdminServiceServicer

from features.clock import Clock
from features.codec import encode_erasure
from features.erasure import Erasure, erase_event
from features.ids import viewer_hash
from features.log import LogError
from features.position import Position
from serving import wire
from serving.track import LogUnavailableError, SteadyWriter, Tracker

RESERVE_S = 0.01  # of a call's time, kept for the answer itself


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
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[str | None] = loop.create_future()

        def settle(reason: str | None) -> None:
            if not outcome.done():
                outcome.set_result(reason)

        def delivered(_: Position | None, reason: str | None) -> None:
            loop.call_soon_threadsafe(settle, reason)

        try:
            self._writer.append(self._topic, erasure.key, encode_erasure(erasure), delivered)
            async with asyncio.timeout(limit_s):
                reason = await outcome
        except (LogError, TimeoutError) as error:
            reason = str(error) or "no acknowledgement in time"
        if reason is not None:
            raise LogUnavailableError("the log did not take the whole erasure; ask for it again")


class AdminServicer(AdminServiceServicer):
    """Answers operators."""

    def __init__(self, eraser: Eraser) -> None:
        self._eraser = eraser

    async def DeleteUser(  # noqa: N802
        self,
        request: admin_pb2.DeleteUserRequest,
        context: Any,  # grpc.aio.ServicerContext[...]
    ) -> admin_pb2.DeleteUserResponse:
        """Has one viewer forgotten; answers when the log has it."""
        user_id, profile_id = wire.viewer_of(request)
        remaining_s: float | None = context.time_remaining()
        budget_s = math.inf if remaining_s is None else remaining_s - RESERVE_S
        return wire.delete_user_response(await self._eraser.erase(user_id, profile_id, budget_s))
