"""`python -m lastgood.workspace.local`: the local workspace as a process; prints one JSON line when it is up."""

import json
import signal
import threading
from typing import Annotated

import typer

from lastgood.workspace.local import CHAT, MODELS, LocalConfig, serve, token_from_environment
from lastgood.workspace.local.models import build


def main(
    payload: Annotated[str, typer.Option(help="folder of the inference table")],
    port: int = 0,
    seed: int = 0,
    update_s: float = 3.0,
    payload_delay_s: float = 3.0,
) -> None:
    """Serve until SIGTERM, then write what was logged."""
    for version in ("1", "2", "3"):
        build(MODELS[CHAT], version)
    config = LocalConfig(
        payload,
        seed,
        update_s,
        payload_delay_s,
        token=token_from_environment(),
        port=port,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with serve(config) as running:
        print(json.dumps({"url": running.url}), flush=True)
        stop.wait()


typer.run(main)
