"""The command that those on call leave running: the console."""

import signal
from importlib.util import find_spec
from threading import Event
from typing import Annotated

import typer

from infra.cli_console import console, errors
from infra.settings import Settings

watch_app = typer.Typer()


@watch_app.command()
def ops(
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="HEADRACE_OPS__PORT; 0: a free one")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="measure freshness by events of a viewer of our own")
    ] = False,
) -> None:
    """Serves the console: what is behind, since when, who is affected, what to do.

    It watches the stack that runs here, or HEADRACE_OPS__TARGETS=name=url,..., looks at everything
    each two seconds, and needs neither Prometheus nor Grafana. Ends with Ctrl-C.
    """
    if find_spec("uvicorn") is None or find_spec("starlette") is None:
        errors.print("[bold red]error[/] the console needs the extra: pip install 'headrace[http]'")
        raise typer.Exit(1)
    from infra.console.processes import attached, named_targets
    from infra.console.server import Listening, run_console
    from infra.running import NotRunningError
    from infra.telemetry import configure_logging

    settings = Settings()
    if not attached(settings).kafka.bootstrap:
        raise NotRunningError(
            f"no stack runs in {settings.home}: `headrace up` starts one; settings name others, "
            "HEADRACE_KAFKA__BOOTSTRAP, HEADRACE_REDIS__URL and HEADRACE_OPS__TARGETS"
        )
    if port is not None:
        settings.ops.port = port
    named_targets(settings.ops.targets)
    configure_logging("ops")
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    def told(at: Listening) -> None:
        console.print(f"[bold]The console[/] {at.url}", highlight=False)
        console.print("Ctrl-C ends it", highlight=False)

    run_console(settings, stop, probes=probe, told=told)
