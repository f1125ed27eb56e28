"""Requests of a table -> which of them the new version hurts, as the command and the evidence page say it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, settings
from cli_support import lastgood
from deltalake import write_deltalake

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.web.app import create_app
from lastgood.demo.weeks import Weeks
from lastgood.judge.slices import Slice
from lastgood.record.telemetry import arrow_schema
from lastgood.settings import Mode
from lastgood.tables import Store
from lastgood.tables.hurt import attributes, hurt, languages

NOW = datetime.now(UTC)


def filled(store: Store, failing: float = 0.2, now: datetime = NOW, new: str = "8", prior: str = "7") -> None:
    """An hour of two versions: German prompts of the new one fail."""
    r = np.random.default_rng(5)
    texts = {
        "German": "Wie kann ich mein Passwort für das Konto ändern?",
        "English": "How do I change the password for my account?",
    }
    rows: list[dict[str, Any]] = []
    for i in range(6000):
        language, is_new = "German" if r.random() < 0.1 else "English", bool(r.random() < 0.5)
        bad = r.random() < (failing if is_new and language == "German" else 0.005)
        rows.append(
            {
                "endpoint": "chat", "request_id": f"r{i}", "model_version": new if is_new else prior, "requested_at": now - timedelta(seconds=0.6 * i),
                "error_code": "HTTP_500" if bad else "HTTP_429" if r.random() < 0.02 else None, "tokens_in": int(r.integers(20, 4000)),
                "team": f"t{r.integers(4)}", "input": texts[language], "weight": 1.0, "received_at": now, "sources": ["otlp"],
                "attributes": [("region", "eu" if r.random() < 0.5 else "us"), ("run.tools", str(i % 3)), ("trace", str(i))],
            }
        )  # fmt: skip
    store.home(tables.REQUESTS).append(pa.Table.from_pylist(rows, arrow_schema(tables.REQUESTS.fields)))


def test_the_language_that_is_hurt_is_named_by_table_command_and_only_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path / "tables"))
    filled(store)
    since = NOW - timedelta(hours=2)
    (first, *_) = hurt(store, "chat", "8", "7", since, ("model",))
    assert first.where == {"language": "German"} and first.only
    assert hurt(store, "chat", "8", "7", since, ("client",)) == []
    assert hurt(store, "other", "8", "7", since, ("model",)) == []
    settings = tmp_path / "lastgood.yaml"
    settings.write_text(f"storage: {store.location}\n")
    words = ("slices", "chat", "--new", "8", "--prior", "7", "--config", str(settings))
    assert lastgood(capsys, *words)[1].startswith("Only language German (")
    document = json.loads(lastgood(capsys, *words, "--json")[1])
    assert document["slices"][0]["where"] == {"language": "German"}


def test_requests_say_what_they_are_and_answers_do_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "tables"))
    filled(store)
    rows = store.home(tables.REQUESTS).read()
    names = {attribute.name: attribute for attribute in attributes(rows)}
    assert {"team", "language", "prompt tokens", "hour (UTC)", "region"} <= names.keys()
    assert not {"run.tools", "trace"} & names.keys(), "what an answer caused, and what is another for each request"
    assert set(names["region"].values) == {"eu", "us"}


def test_a_template_of_prompts_is_named_and_texts_that_are_all_others_are_none(tmp_path: Path) -> None:
    store, r = Store(str(tmp_path / "tables")), np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for i in range(6000):
        summary, is_new = bool(r.random() < 0.15), bool(r.random() < 0.5)
        text = (
            f"Summarize the following\ncontract {i} for you"
            if summary
            else f"{r.integers(1 << 30)} is the number of what you can do"
        )
        rows.append({
            "endpoint": "chat", "request_id": f"r{i}", "model_version": "8" if is_new else "7", "requested_at": NOW - timedelta(seconds=0.6 * i),
            "error_code": "HTTP_500" if r.random() < (0.15 if is_new and summary else 0.005) else None, "input": text if i % 50 else None, "weight": 1.0,
            "received_at": NOW, "sources": ["otlp"],
        })  # fmt: skip
    store.home(tables.REQUESTS).append(pa.Table.from_pylist(rows, arrow_schema(tables.REQUESTS.fields)))
    (first, *_) = hurt(store, "chat", "8", "7", NOW - timedelta(hours=2), ("model",))
    assert first.where == {"prompt begins": "summarize the following"} and first.only, first
    names = {attribute.name: attribute for attribute in attributes(store.home(tables.REQUESTS).read())}
    assert names["prompt begins"].values[0] == "summarize the following"


def test_what_lastgood_knows_of_a_request_is_not_replaced_by_what_its_caller_wrote(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "tables"))
    filled(store)
    rows = store.home(tables.REQUESTS).read()
    said = pa.array([[("team", f"x{i % 2}"), ("env", f"e{i % 2}")] for i in range(len(rows))], rows["attributes"].type)
    rows = rows.set_column(rows.column_names.index("attributes"), "attributes", said)
    names = {attribute.name: attribute for attribute in attributes(rows)}
    assert set(names["team"].values) == {"t0", "t1", "t2", "t3"}
    assert set(names["env"].values) == {"e0", "e1"}, "nothing else is known of it"


def test_a_sentence_stays_a_sentence_whatever_a_caller_wrote() -> None:
    long = Slice({"pro\nject": "v" * 5000}, 1e9, (20, 100), (1, 100), ((0, 9), (0, 9)), 0.5, True)
    assert long.sentence.startswith("Only pro ject vvv") and len(long.sentence) < 200 and "\n" not in long.sentence


def test_before_the_first_request_nobody_is_hurt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hurt(Store(str(tmp_path / "tables")), "chat", "8", "7", NOW, ("model",)) == []
    config = tmp_path / "lastgood.yaml"
    config.write_text(f"storage: {tmp_path}/tables\n")
    words = ("slices", "chat", "--new", "8", "--prior", "7", "--config", str(config))
    assert "no part of version 8's requests" in lastgood(capsys, *words)[1]


@pytest.mark.parametrize("length", ["1e9", "inf", "nan"])
@pytest.mark.parametrize(
    "words",
    [
        ("slices", "chat", "--new", "8", "--prior", "7", "--hours"), ("cost", "chat", "--days"), ("outcomes", "chat", "--days"),
        ("silence", "add", "chat", "--why", "a test", "--hours"),
    ],
)  # fmt: skip
def test_a_time_beyond_any_calendar_is_refused(
    words: tuple[str, ...], length: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = lastgood(capsys, *words, length)
    assert code == 2 and words[-1] in error


def test_languages_are_guessed_by_script_and_frequent_words() -> None:
    texts = {
        "Où est la gare, pour que je puisse y aller avec vous ?": "French", "¿Cómo puedo cambiar la contraseña para mi cuenta?": "Spanish",
        "パスワードを変更したい": "Chinese or Japanese", "Как изменить пароль": "Cyrillic", "12345": None, "": None,
    }  # fmt: skip
    assert languages(pa.chunked_array([pa.array([*texts, None])])).to_pylist() == [*texts.values(), None]


def test_the_evidence_page_says_first_who_is_hurt(tmp_path: Path) -> None:
    """And opens without it where the tables cannot be read."""
    store = Store(str(tmp_path / "tables"))
    filled(store, now=START, new="3", prior="2")
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE))
    house.verdict()
    house.tick()
    with serving(create_app(house.controller, data=store)) as url, httpx.Client(base_url=url) as browser:
        page = browser.get(f"/r/{house.token()}").text
        heading, sentence = page.index("<h1>"), page.index("Only language German (")
        assert heading < sentence < page.index("<h2>")
        requests = tmp_path / "tables" / "requests"
        for part in requests.glob("*.parquet"):
            part.write_bytes(b"no longer Parquet")
        again = browser.get(f"/r/{house.token()}").text
        assert "Only language German (" in again, "what the verdict's requests say is kept for a minute"
        house.clock.now += timedelta(minutes=2)
        damaged = browser.get(f"/r/{house.token()}")
        assert damaged.status_code == 200 and "Only language German" not in damaged.text
    house.store.close()


def test_a_table_of_an_earlier_release_lacks_newer_columns_and_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it does not say is not known."""
    full, store = Store(str(tmp_path / "full")), Store(str(tmp_path / "tables"))
    filled(full)
    newer = ["attributes", "team", "env", "streaming", "input"]
    rows = full.home(tables.REQUESTS).read().drop_columns(newer)
    write_deltalake(store.where(tables.REQUESTS), rows)
    assert store.home(tables.REQUESTS).read(["team"]).column("team").null_count == len(rows)
    config = tmp_path / "lastgood.yaml"
    config.write_text(f"storage: {store.location}\n")
    code, out, error = lastgood(capsys, "slices", "chat", "--new", "8", "--prior", "7", "--config", str(config))
    assert code == 0 and error == "" and ("no part of version 8's requests" in out or "fail" in out)


def test_the_versions_are_those_of_the_newest_verdict_wherever_it_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Weeks(days=2, endpoints=8, out=tmp_path / "weeks").made():
        config = str(tmp_path / "weeks" / "lastgood.yaml")
        assert json.loads(lastgood(capsys, "slices", "support-chat", "--json", "--config", config)[1])["new"] == "8"
    code, _, error = lastgood(capsys, "slices", "nobody", "--config", config)
    assert code == 2 and "give --new and --prior" in error
