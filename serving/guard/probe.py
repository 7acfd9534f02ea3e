"""How long calls wait in gRPC's own queue, which nothing in Python can see.

gRPC takes calls over from its core one at a time, as fast as the event loop goes round. What has
arrived and was not taken over yet waits in the core: while the loop still answers its timers within
a millisecond, calls may be waiting for half a second. So the server calls itself, through that very
queue, and sees how long it takes to be begun. The call passes the guard and costs about 0.3 ms, 20
times a second, 100 times where delay was found.
"""

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import grpc

from serving import metrics
from serving.guard.overload import FULL, DelayControl

PROBE_HEADER: Final = "x-headrace-probe"
CALM_S: Final = 0.05  # between probes
ALERT_S: Final = 0.01  # between measurements where something waits
GIVE_UP_S: Final = 10.0


class QueueProbe:
    """Measures the delay of calls of one method, and tells a DelayControl."""

    def __init__(
        self,
        control: DelayControl,
        method: str,
        *,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._method = method
        self._steady_s = steady_s
        self._token = secrets.token_urlsafe(16)
        self._sent_s: float | None = None

    def begun(self, token: str) -> bool:
        """Whether a call is a probe of this very process; if so, it has just been begun."""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return False
        if self._sent_s is not None:
            delay_s = self._steady_s() - self._sent_s
            self._sent_s = None
            metrics.QUEUE_DELAY.observe(delay_s)
            self._tell(delay_s)
        return True

    async def run(self, target: str) -> None:
        """Probes the server that listens on `target` until it is cancelled."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            call: Any = channel.unary_unary(self._method, None, None)
            while True:
                await self._probe(call)
                calm = self._control.load.level == FULL
                await asyncio.sleep(CALM_S if calm else ALERT_S)

    async def watch_loop(self) -> None:
        """The same where calls wait in the event loop alone: how late the loop comes to a timer.

        Costs next to nothing. Until it is cancelled.
        """
        while True:
            pause_s = CALM_S if self._control.load.level == FULL else ALERT_S
            due_s = self._steady_s() + pause_s
            await asyncio.sleep(pause_s)
            delay_s = max(self._steady_s() - due_s, 0.0)
            metrics.QUEUE_DELAY.observe(delay_s)
            self._tell(delay_s)

    async def _probe(self, call: Any) -> None:
        """One call; for as long as it waits, its age is what is known of the delay."""
        self._sent_s = sent_s = self._steady_s()
        metadata = ((PROBE_HEADER, self._token),)
        answer = asyncio.ensure_future(call(b"", metadata=metadata, timeout=GIVE_UP_S))
        try:
            while not (await asyncio.wait({answer}, timeout=ALERT_S))[0]:
                if self._sent_s is not None:
                    self._tell(self._steady_s() - sent_s)
            with suppress(grpc.RpcError):  # a connection that was renewed; the next one goes
                answer.result()
        finally:
            self._sent_s = None
            answer.cancel()

    def _tell(self, delay_s: float) -> None:
        metrics.LOAD_LEVEL.set(self._control.observe(delay_s, self._steady_s()))
