"""Composition of the Faust agents: views over the log, and the pages that tell them.

/views/dead-letters.json   by reason and by producer
/views/drift.json          changes that learning found
/views/alerts.json         what fires, what fired, deployments
/views/experiments.json    exposures by policy, bundle and arm
/healthz                   503 where a partition is behind and does not move
/readyz                    503 until the views have what the log had at the start
"""

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from threading import Event
from typing import Any, Final

import structlog
from confluent_kafka import KafkaException
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from features.clock import WallClock
from features.log import LogError
from infra import topics
from infra.embedded import LOOPBACK
from infra.settings import Settings
from infra.telemetry import READY
from serving.http.hosting import Hosted, bound
from streams import metrics
from streams.log_watch import LogWatch
from streams.ops_agents import AgentTopics, LogEnds, OpsAgents

NAME: Final = "headrace-agents"
FLOW: Final = "agents"
WATCH_EVERY_S: Final = 0.1
ENDS_EVERY_S: Final = 1.0
STOP_S: Final = 5.0  # of Faust; the supervisor's grace is 10
MAX_CONNECTIONS: Final = 64
# Of requests. A page elsewhere that lets its own name point here is refused (DNS rebinding).
OWN_NAMES: Final = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

log = structlog.get_logger(__name__)


def agents_of(settings: Settings) -> OpsAgents:
    """The agents under these settings."""
    prefix, agents = settings.kafka.prefix, settings.agents
    return OpsAgents(
        settings.kafka.log_config(),
        AgentTopics(
            prefix + topics.DEAD_LETTERS, prefix + topics.OPS_EVENTS, prefix + topics.IMPRESSIONS
        ),
        agents.exposure_days,
        agents.max_replay,
        WallClock().now_ms,
    )


def run_agents(settings: Settings, stop: Event) -> None:
    """Runs the agents in this thread until `stop` is set or something breaks. Raises LogError."""
    logging.basicConfig(handlers=[_ToStructlog(logging.WARNING)])
    agents = agents_of(settings)
    with asyncio.Runner() as runner:
        runner.run(_run(settings, agents, stop))


async def _run(settings: Settings, agents: OpsAgents, stop: Event) -> None:
    async with contextlib.AsyncExitStack() as ending:
        web = Hosted(
            views_app(agents, settings.agents.stall_s),
            max_connections=MAX_CONNECTIONS, keep_alive_s=30, grace_s=1,
        )  # fmt: skip
        port = await web.start(bound(LOOPBACK, settings.agents.port))
        ending.push_async_callback(web.stop)
        ends = LogEnds(agents.config, vars_of(agents.topics))
        ending.callback(ends.close)
        watch = LogWatch(agents.config, FLOW, agents.progress.places)
        watch.start()
        ending.callback(watch.stop)
        app = agents.app(NAME, ending.enter_context(tempfile.TemporaryDirectory(prefix=NAME)))
        log.info("views_told", port=port)
        ending.callback(READY.set, 0)
        ending.push_async_callback(_stopped, app)
        starting = asyncio.create_task(app.start())
        ending.callback(starting.cancel)
        await _watch(app, starting, agents, ends, stop)


async def _watch(
    app: Any, starting: "asyncio.Task[None]", agents: OpsAgents, ends: LogEnds, stop: Event
) -> None:
    """Until `stop`, or until Faust gives up."""
    asked_s = float("-inf")
    while not stop.is_set():
        if starting.done():
            starting.result()
        if app.crashed:
            raise LogError(f"the agents have ended: {app.crash_reason!r}")
        if time.monotonic() - asked_s >= ENDS_EVERY_S:
            await _ask(agents, ends)
            asked_s = time.monotonic()
        await asyncio.sleep(WATCH_EVERY_S)


async def _ask(agents: OpsAgents, ends: LogEnds) -> None:
    """Where the log ends, for those who ask whether the views move; lags are told by LogWatch."""
    try:
        agents.progress.ends(await asyncio.to_thread(ends.read))
    except KafkaException as error:
        log.warning("log_ends_unknown", reason=error.args[0].str())
    if not agents.progress.stalled(ENDS_EVERY_S):
        metrics.AGES.source("applied", FLOW).heard()
    READY.set(int(agents.progress.is_rebuilt()))


async def _stopped(app: Any) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await app.stop()
    except TimeoutError:
        log.warning("agents_did_not_end", within_s=STOP_S)


def views_app(agents: OpsAgents, patience_s: float) -> Starlette:
    """The pages, and nothing beside them."""
    views: dict[str, Callable[[], Any]] = {
        "dead-letters": agents.dead_letters.told,
        "drift": agents.events.drifts,
        "alerts": agents.events.alerts,
        "experiments": agents.exposures.told,
    }

    def page(told: Callable[[], Any]) -> Callable[[Request], Any]:
        async def answer(_: Request) -> Response:
            found = {"is_rebuilt": agents.progress.is_rebuilt(), **told()}
            return JSONResponse(found, headers=HEADERS)

        return answer

    async def healthz(_: Request) -> Response:
        stalled = agents.progress.stalled(patience_s)
        return JSONResponse(
            {"is_live": not stalled, **progress_told(agents), "stalled": stalled},
            503 if stalled else 200,
            HEADERS,
        )

    async def readyz(_: Request) -> Response:
        is_ready = agents.progress.is_rebuilt()
        return JSONResponse({"is_ready": is_ready}, 200 if is_ready else 503, HEADERS)

    routes = [Route(f"/views/{name}.json", page(told)) for name, told in views.items()]
    routes += [Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=routes, middleware=[OWN_NAMES])


def progress_told(agents: OpsAgents) -> dict[str, Any]:
    """Every partition with the end of its log and the next offset to apply."""
    return {
        "partitions": [
            {"topic": topic, "partition": partition, "end": end, "applied": applied}
            for (topic, partition), end, applied in sorted(agents.progress.ends_and_applied())
        ]
    }


def vars_of(names: AgentTopics) -> tuple[str, ...]:
    """The topics, as a list."""
    return names.dead_letters, names.ops_events, names.impressions


class _ToStructlog(logging.Handler):
    """What Faust and others have to say, as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        log.log(record.levelno, "library_says", library=record.name, said=record.getMessage())
