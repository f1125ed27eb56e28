"""Slack-compatible and signed generic webhooks over real HTTP: what arrives, how it is signed, what is tried again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tenacity import wait_none

from lastgood.alerts.notify import LogNotifier, configured
from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.notify.pagerduty import event
from lastgood.alerts.notify.webhooks import SignedWebhook, Slack
from lastgood.errors import ConfigError, RefusedError, TransientError
from lastgood.settings import Alertmanager, Settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TRIGGER = event(
    "trigger", "inc1", "chat version 3: <roll back> & so on?", severity="critical", source="lastgood/chat",
    details={"plan": ["traffic of chat-3: 100% -> 0%"]}, links={"Evidence and rollback": "https://x/r/t"},
    about={"endpoint": "chat", "version": "3"},
)  # fmt: skip


class Receiver:
    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.app = Starlette(routes=[Route("/hook", self._take, methods=["POST"])])
        self.url = ""

    async def _take(self, request: Request) -> Response:
        status = self.answers.pop(0) if self.answers else 200
        self.got.append((dict(request.headers), await request.body()))
        return PlainTextResponse("ok", status)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.app) as url:
        receiver.url = f"{url}/hook"
        yield receiver


def test_slack_gets_text_and_buttons_and_nothing_can_be_injected() -> None:
    with receiving() as receiver:
        slack = Slack(receiver.url, wait=wait_none())
        for one in (
            TRIGGER,
            event("acknowledge", "inc1"),
            event("resolve", "inc1", about={"endpoint": "chat", "version": "3"}),
        ):
            slack.send(one)
        slack.close()
        first, last = (json.loads(body) for _, body in receiver.got)
        assert first["text"] == ":red_circle: chat version 3: &lt;roll back&gt; &amp; so on?"
        assert "traffic of chat-3: 100% -&gt; 0%" in first["blocks"][1]["text"]["text"]
        assert first["blocks"][2]["elements"][0]["url"] == "https://x/r/t"
        assert last["text"] == "Resolved: chat version 3 (inc1)"


def test_the_generic_webhook_is_signed_and_keeps_its_id_when_tried_again() -> None:
    with receiving() as receiver:
        receiver.answers = [500, 200]
        hook = SignedWebhook(receiver.url, SECRET, wait=wait_none())
        hook.send(TRIGGER)
        hook.close()
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        headers, body = receiver.got[-1]
        assert Webhook(SECRET).verify(body, headers)["dedup_key"] == "inc1"
        with pytest.raises(Exception, match="signature"):
            Webhook(SECRET).verify(body.replace(b"inc1", b"inc2"), headers)


def test_the_url_of_a_webhook_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with receiving() as receiver:
        slack = Slack(receiver.url, wait=wait_none())
        slack.send(TRIGGER)
        slack.close()
        assert receiver.got and not [r for r in caplog.records if receiver.url in r.getMessage()]


@pytest.mark.parametrize(("status", "error"), [(429, TransientError), (503, TransientError), (404, RefusedError)])
def test_what_is_tried_again_and_what_is_not(status: int, error: type[Exception]) -> None:
    with receiving() as receiver:
        receiver.answers = [status] * 9
        slack = Slack(receiver.url, wait=wait_none())
        with pytest.raises(error) as caught:
            slack.send(TRIGGER)
        slack.close()
        assert receiver.url not in str(caught.value), "the URL is a secret"
        assert len(receiver.got) == (3 if error is TransientError else 1)


def test_the_settings_name_the_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(alertmanager=Alertmanager(url="http://127.0.0.1:9093"))
    assert isinstance(configured(Settings())["log"], LogNotifier)
    secrets: dict[str, Any] = {
        "LASTGOOD_PAGERDUTY_KEY": "r", "LASTGOOD_SLACK_URL": "https://h/s", "LASTGOOD_WEBHOOK_URL": "https://h/w",
    }  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="LASTGOOD_WEBHOOK_SECRET is not"):
        configured(settings)
    monkeypatch.setenv("LASTGOOD_WEBHOOK_SECRET", "whsec_!")
    with pytest.raises(ConfigError, match="whsec_"):
        configured(settings)
    monkeypatch.setenv("LASTGOOD_WEBHOOK_SECRET", SECRET)
    assert list(configured(settings)) == ["pagerduty", "alertmanager", "slack", "webhook"]
