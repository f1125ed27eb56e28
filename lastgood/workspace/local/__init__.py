"""A local workspace: Databricks' serving API on loopback with real models, for the demo and the tests."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from lastgood.workspace.local.app import Service
from lastgood.workspace.local.catalog import LocalCatalog
from lastgood.workspace.local.models import CHAT, TABULAR, Prompts, row
from lastgood.workspace.local.state import MODELS, Fault, LocalConfig, entity

__all__ = [
    "CHAT",
    "MODELS",
    "TABULAR",
    "Fault",
    "LocalCatalog",
    "LocalConfig",
    "Prompts",
    "Running",
    "entity",
    "row",
    "serve",
]


@dataclass(frozen=True)
class Running:
    """A local workspace that is up."""

    url: str
    token: str
    service: Service

    def flush(self) -> dict[str, int]:
        """Write all logged requests to the inference table."""
        return self.service.payload.flush()


@contextmanager
def serve(config: LocalConfig | None = None) -> Iterator[Running]:
    """Serve in a thread until the block ends; what was logged is written before it returns."""
    config = config or LocalConfig()
    service = Service(config)
    settings = uvicorn.Config(service.app(), config.host, config.port, log_level="warning", lifespan="off")
    server = uvicorn.Server(settings)
    socket = settings.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(f"http://{config.host}:{socket.getsockname()[1]}", config.token, service)
    finally:
        server.should_exit = True
        thread.join(10)
        service.payload.close()


def token_from_environment() -> str:
    """The token a local workspace process takes: LASTGOOD_LOCAL_TOKEN."""
    return os.environ.get("LASTGOOD_LOCAL_TOKEN", LocalConfig.token)
