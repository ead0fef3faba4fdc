"""Run ``retrain`` here, with a Prefect server of its own: what ``python -m flows.retrain`` does.

The server is embedded (SQLite, gone with the process), and everything of Prefect's lies in ``.ununennium/prefect``:
neither a profile nor a database of the user's is read or touched, unless ``--server`` asks for them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.server import EmbeddedServer

if TYPE_CHECKING:
    from flows.console import Console

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "ununennium",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done (promoted or not), 1 failed, 2 wrong settings, 130 interrupted, 143 terminated."""
    options = _options(arguments)
    from flows.console import Console
    from ununennium.config import RunConfig
    from ununennium.errors import ConfigError, UnunenniumError
    from ununennium.processes.supervise import Terminated, raise_on_sigterm

    raise_on_sigterm()  # the embedded server is stopped at a regular exit only
    console = Console()
    try:
        config = RunConfig.load(options.config, options.set)
        return _run(config, options, console)
    except ConfigError as error:
        status = 2
        console.error(str(error))
    except UnunenniumError as error:
        status = 1
        console.error(str(error))
    except (KeyboardInterrupt, Terminated) as stopped:
        status = 143 if isinstance(stopped, Terminated) else 130
        console.error("stopped; the same command again goes on from the newest checkpoint")
    except Exception as error:
        if options.debug:
            raise
        status = 1
        console.error(f"{type(error).__name__}: {error} (--debug shows where)")
    if options.debug:
        console.traceback()
    return status


def demo(arguments: list[str]) -> int:
    """Run ``main`` on the sample scene; registered as ``ununennium demo``."""
    example = Path("examples/atlanta/run.yaml")
    if not example.exists():
        example = Path(__file__).parents[1] / example
    return main(["--config", str(example), *arguments])


def _run(config: Any, options: argparse.Namespace, console: Console) -> int:
    started = time.monotonic()
    server = None
    if not options.server:
        console.say("Starting an embedded Prefect server ...")
        server = embed(os.environ)
    from flows.retrain import retrain
    from ununennium.runs.records import RunSummary

    console.attach()
    if server is not None:
        server.wait_until_ready()
    with console.live():
        state = retrain(config, dry_run=options.dry_run, check=not options.no_check, return_state=True)
    summary: Any = state.result()
    if not options.dry_run:
        console.closing(RunSummary.of(summary), state.name or "", time.monotonic() - started)
    return 0


def embed(environment: os._Environ[str]) -> EmbeddedServer:
    """Make Prefect, which must not have been imported yet, use a server and a home of this project's own."""
    assert "prefect" not in sys.modules, "Prefect has read its settings already"
    for name in [name for name in environment if name.startswith("PREFECT_")]:
        if name not in QUIET and not name.startswith("PREFECT_LOGGING_"):
            del environment[name]
    home = Path(".ununennium/prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    environment["PREFECT_HOME"] = str(home)
    for name, value in QUIET.items():
        environment.setdefault(name, value)
    server = EmbeddedServer(home)
    environment["PREFECT_API_URL"] = server.api_url
    return server


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain",
        description="Retrain a model, and promote it if it is measurably better than the champion.",
        epilog="Example: python -m flows.retrain --config examples/atlanta/run.yaml --set trainer.epochs=3",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the run, as 'ununennium init' writes it")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change one setting")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, and try one batch; train nothing")
    parser.add_argument("--no-check", action="store_true", help="do not try one batch first")
    parser.add_argument(
        "--server", action="store_true", help="use the Prefect server and settings of the environment instead"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)
