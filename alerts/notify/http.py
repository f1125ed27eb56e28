"""One JSON body -> one accepted POST, with a few quick retries; a longer outage is the outbox's business."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from lastgood.errors import RefusedError, TransientError

if TYPE_CHECKING:  # the kill switch starts without a client it does not use
    from tenacity.wait import wait_base


class Poster:
    """`name` is what errors call the receiver; the URL may be a secret and is never said."""

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float = 5.0,
        attempts: int = 3,
        wait: "wait_base | None" = None,
        accepted: Collection[int] = range(200, 300),
    ) -> None:
        import httpx
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        self._name = name
        self._accepted = accepted
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs
        self._client = httpx.Client(timeout=timeout_s)
        self._retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(attempts),
            wait=wait or wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )

    def post(self, url: str, body: bytes, headers: Callable[[], Mapping[str, str]] = dict) -> None:
        """`headers` are made anew for each attempt. Errors: TransientError (429, 5xx, no connection), RefusedError."""
        self._retrying(self._once, url, body, headers)

    def close(self) -> None:
        self._client.close()

    def _once(self, url: str, body: bytes, headers: Callable[[], Mapping[str, str]]) -> None:
        import httpx

        try:
            answer = self._client.post(url, content=body, headers={"Content-Type": "application/json", **headers()})
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise TransientError(f"{self._name} cannot be reached: {type(error).__name__}") from error
        if answer.status_code in self._accepted:
            return
        if answer.status_code == 429 or answer.status_code >= 500:
            raise TransientError(f"{self._name} answered {answer.status_code}")
        raise RefusedError(f"{self._name} refused the event ({answer.status_code}): {answer.text[:500]}")
