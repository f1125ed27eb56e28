"""The jobs on a real Spark session: one row per request, quarantine, windows as recomputed by hand, drift, verdicts."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from jobs_support import START, WINDOW_S, inbox, put, row, stored

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs.conform import conform
from lastgood.jobs.drift import drift, evidently_html
from lastgood.jobs.judge import run_judge
from lastgood.jobs.windows import quality, windows
from lastgood.record import telemetry
from lastgood.record.fault import FAULTS, fault
from lastgood.record.telemetry import Field
from lastgood.record.verdict import State
from lastgood.record.windows import KEPT_REQUESTERS, OUTSIDE, START_TOKENS, Counts, add, bucket, merge, stratum
from lastgood.tables import Store, delta, measures
from lastgood.tables.runs import Context


def test_ensure_adds_missing_columns_and_refuses_another_type(spark: Any, store: Store) -> None:
    old = tables.Table("runs", tables.RUNS.fields[:3])
    store.ensure(spark, old)
    rows = [{"job": "j", "source": "s", "version": 1}]
    delta.append(store.path(old), pa.Table.from_pylist(rows, telemetry.arrow_schema(old.fields)))
    store.ensure(spark, tables.RUNS)
    found = store.read(spark, tables.RUNS)
    assert dict(found.dtypes) == {one.name: one.type for one in tables.RUNS.fields}
    assert found.collect()[0].asDict() == dict.fromkeys(tables.RUNS.columns) | {"job": "j", "source": "s", "version": 1}
    retyped = tables.Table("runs", (Field("job", "bigint", ""), *tables.RUNS.fields[1:]))
    with pytest.raises(ConfigError, match=r"column job is string, expected bigint"):
        store.ensure(spark, retyped)


SPAN = row(
    1, latency_ms=130.0, requester="span-user", team="search", feature_age_ms=5.0, model_version="9", tokens_in=3,
    attributes=[("b", "2"), ("a", "1")], weight=1.0, trace_id="t",
)  # fmt: skip
LOGGED = row(
    1, source="ai_gateway", latency_ms=100.0, latency_scope="model", tokens_in=4, output="hi", requester=None,
    features=[("x", "1")], received_at=START + timedelta(minutes=2), served_entity="chat-2", attributes=[("c", "3")],
)  # fmt: skip


ARRIVALS = {
    "together": ([SPAN, LOGGED], []),
    "span first, the table twice": ([SPAN], [LOGGED, LOGGED, SPAN]),
    "table first, twice": ([LOGGED, LOGGED], [SPAN, SPAN]),
}


def test_one_request_seen_twice_is_one_row_in_any_order_and_number_of_runs(make: Callable[..., Context]) -> None:
    ctx = make()
    for i in (0, 1):
        put(ctx.store, [one | {"endpoint": name} for name, batches in ARRIVALS.items() for one in batches[i]])
        conform(ctx)
    outcomes = stored(ctx.store, tables.REQUESTS, "endpoint")
    assert len(outcomes) == len(ARRIVALS)
    assert outcomes[0] == outcomes[1] == outcomes[2]
    only = dict(zip(tables.REQUESTS.columns[1:], outcomes[0], strict=True))
    assert (only["model_version"], only["tokens_in"], only["output"]) == ("2", 4, "hi")
    assert (only["latency_ms"], only["latency_scope"], only["team"]) == (130.0, "client", "search")
    assert (only["requester"], only["sources"]) == ("span-user", ["'ai_gateway'", "'otlp'"])
    assert only["received_at"] == START + timedelta(minutes=2)


def test_a_key_is_one_request_however_far_its_clocks_are_apart(make: Callable[..., Context]) -> None:
    ctx = make()
    for days, source in ((0, "otlp"), (2, "ai_gateway")):
        put(
            ctx.store,
            [
                row(
                    i,
                    source=source,
                    requested_at=START + timedelta(days=days, seconds=i),
                    received_at=START + timedelta(days=3),
                )
                for i in range(5)
            ],
        )
        conform(ctx)
    kept = delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
    assert sorted(one["request_id"] for one in kept) == [f"r{i}" for i in range(5)]
    assert all(one["sources"] == ["ai_gateway", "otlp"] for one in kept)


@pytest.mark.parametrize("together", [True, False])
def test_attributes_are_merged_key_by_key(make: Callable[..., Context], together: bool) -> None:
    """A span that says nothing takes nothing from the table's row; what both say is the better source's."""
    ctx = make()
    logged = [("response_format", "json"), ("both", "table")]
    pairs = [
        [row(1, source="ai_gateway", attributes=logged), row(2, source="ai_gateway", attributes=logged)],
        [row(1, attributes=[]), row(2, attributes=[("both", "span"), ("own", "1")])],
    ]
    for batch in [[*pairs[0], *pairs[1]]] if together else pairs:
        put(ctx.store, batch)
        conform(ctx)
    kept = {
        one["request_id"]: dict(one["attributes"]) for one in delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
    }
    assert kept == {
        "r1": {"response_format": "json", "both": "table"}, "r2": {"response_format": "json", "both": "span", "own": "1"},
    }  # fmt: skip


def test_a_version_learnt_later_is_given_to_earlier_requests_and_their_counts_move(
    make: Callable[..., Context], spark: Any, tmp_path: Path
) -> None:
    entities = str(tmp_path / "entities")
    known = "'se-1' served_entity_id, 'chat' endpoint_name, 'chat-7' served_entity_name, '7' entity_version, timestamp'2026-01-01' change_time"
    spark.sql(f"SELECT {known} LIMIT 0").write.format("delta").save(entities)
    ctx = replace(make(), clock=lambda: START + timedelta(days=1))
    ctx = replace(
        ctx,
        settings=ctx.settings.model_copy(
            update={"sources": ctx.settings.sources.model_copy(update={"entities_table": entities})}
        ),
    )
    put(ctx.store, [row(i, model_version=None, served_entity="se-1", status_code=500) for i in range(8)])
    conform(ctx)
    windows(ctx)
    counted = {one["model_version"] for one in delta.read(ctx.store.path(tables.WINDOWS)).to_pylist()}
    assert counted == {"?"}
    spark.sql(f"SELECT {known}").write.format("delta").mode("append").save(entities)
    conform(ctx)
    windows(ctx)
    rows = delta.read(ctx.store.path(tables.WINDOWS)).to_pylist()
    assert {one["model_version"] for one in rows} == {"7"}
    assert sum(one["rows"] for one in rows) == 8


REJECTED = {
    "a negative latency": ({"latency_ms": -1.0}, "latency is negative or not a number"),
    "a latency that is not a number": ({"latency_ms": float("nan")}, "latency is negative or not a number"),
    "a latency of two days": ({"latency_ms": 2 * 86_400_000.0}, "latency is above one day"),
    "a time in 1970": ({"requested_at": datetime(1970, 1, 1, tzinfo=UTC)}, "request time is too long ago"),
    "a time in 2100": ({"requested_at": datetime(2100, 1, 1, tzinfo=UTC)}, "request time is in the future"),
    "no time": ({"requested_at": None}, "no request time"),
    "an empty id": ({"request_id": "  "}, "no request id"),
    "an empty endpoint": ({"endpoint": ""}, "no endpoint"),
    "negative tokens": ({"tokens_out": -3}, "token count is negative"),
    "an infinite latency": ({"latency_ms": float("inf")}, "latency is above one day"),
    "a weight of no meaning": ({"weight": float("nan")}, "weight is not a positive number"),
    "an infinite weight": ({"weight": float("inf")}, "weight is not a positive number"),
    "the first year": ({"requested_at": datetime(1, 1, 1, tzinfo=UTC)}, "request time is too long ago"),
    "the last year": ({"requested_at": datetime(9999, 12, 31, tzinfo=UTC)}, "request time is in the future"),
    "an unknown source": ({"source": "elsewhere"}, "unknown source"),
    "nothing at all": (dict.fromkeys(telemetry.arrow_schema(telemetry.INBOX).names), "no endpoint"),
    "no source": ({"source": None}, "unknown source"),
    "set aside by the collector": ({"reject_reason": "span is not a request", "raw": b"\x00"}, "span is not a request"),
}


def test_what_cannot_be_a_record_is_quarantined_with_its_reason_and_the_rest_is_kept(
    make: Callable[..., Context],
) -> None:
    ctx = make()
    bad = [row(i) | change for i, (change, _) in enumerate(REJECTED.values())]
    good = [row(100), row(101, latency_ms=None), row(102, status_code=503)]
    put(ctx.store, [*bad, *good])
    run = conform(ctx)
    assert run is not None
    assert run.rows_in == len(bad) + 3
    before = stored(ctx.store, tables.QUARANTINE)
    reasons = Counter(one[tables.QUARANTINE.columns.index("reason")] for one in before)
    assert reasons == Counter(reason for _, reason in REJECTED.values())
    kept = {one["request_id"]: one["error_code"] for one in delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()}
    assert kept == {"r100": None, "r101": None, "r102": "HTTP_503"}
    assert conform(ctx) is None
    put(ctx.store, [*bad, *good])
    conform(ctx)
    assert stored(ctx.store, tables.QUARANTINE) == before
    assert len(stored(ctx.store, tables.REQUESTS)) == 3


def bad_answer(one: dict[str, Any]) -> bool:
    """The flags that inbox() can raise, by hand."""
    text = one["output"]
    return text in ("", "I'm sorry, I cannot") or text.startswith("ja ja")


def known_as(name: str, salt: str) -> str:
    """What windows know a requester as."""
    return sha256(sha256((salt + name).encode()).hexdigest().encode()).hexdigest()[:12]


def shapes(group: list[dict[str, Any]], failed_latency: dict[int, float], salt: str) -> tuple[Any, ...]:
    """(length, pace, failed latency, callers, scores) of one window, one request at a time."""
    length, pace, people, scores = {}, {}, [], []
    for one in group:
        ms, tokens, name = one["latency_ms"], one["tokens_out"], one["requester"]
        per = ms / (tokens + START_TOKENS) if ms is not None and tokens is not None else None
        failed = one["error_code"] is not None
        length = add(length, {bucket(tokens): one["weight"]} if tokens is not None and not failed else {})
        pace = add(pace, {bucket(per): one["weight"]} if per is not None and not failed else {})
        mark = (1, bucket(ms), bucket(ms) ** 2) if ms is not None and ms > 0 and not failed else (0, 0, 0)
        if name is not None:
            facts = (1, *(int(failed and fault(one["error_code"]) is kind) for kind in FAULTS), *mark)
            people.append(Counts("", "", "", START, callers={known_as(name, salt): facts}))
        for key, value in one["attributes"] or ():
            if key.startswith("eval.") and value != "no number":
                v, name = float(value), key[5:]
                name, v = (name, v) if 0 <= v <= 1 else (OUTSIDE + name, 0.0)
                scores.append(Counts("", "", "", START, scores={name: (1.0, v, v * v)}))
    found = [merge(made) if made else Counts("", "", "", START) for made in (people, scores)]
    return length, pace, failed_latency, found[0].callers, found[1].scores


def by_hand(requests: list[dict[str, Any]], salt: str) -> tuple[dict[Any, Counts], dict[Any, dict[str, float]]]:
    """Window counts and answers recomputed one request at a time with lastgood.record.windows."""
    groups = defaultdict(list)
    for one in requests:
        start = START + timedelta(seconds=(one["requested_at"] - START).total_seconds() // WINDOW_S * WINDOW_S)
        size = stratum(one["latency_scope"], one["tokens_in"], None if one["input"] is None else len(one["input"]))
        groups[one["endpoint"], one["model_version"] or "?", size, start].append(one)
    counted, answers = {}, {}
    for key, group in groups.items():
        errors: dict[str, float] = defaultdict(float)
        for one in group:
            if one["error_code"]:
                errors[one["error_code"]] += one["weight"]
        good, failed = ([one for one in group if bool(one["error_code"]) is bad] for bad in (False, True))
        histograms = [
            add(*({bucket(one[name]): one["weight"]} for one in kept if one[name] is not None))
            for name, kept in (
                ("latency_ms", group),
                ("ttft_ms", good),
                ("feature_age_ms", group),
                ("latency_ms", failed),
            )
        ]
        sums = [sum((one[name] or 0) * one["weight"] for one in group) for name in ("tokens_in", "tokens_out")]
        who = {known_as(one["requester"], salt) if one["requester"] else "?" for one in group if one["error_code"]}
        counted[key] = Counts(
            *key, len(group), sum(one["weight"] for one in group), dict(errors), *histograms[:3], *sums,
            tuple(sorted(who)[:KEPT_REQUESTERS]), {}, *shapes(group, histograms[3], salt),
            **{f"told_{side}": sum(one["weight"] for one in group if one[f"tokens_{side}"] is not None) for side in ("in", "out")},
        )  # fmt: skip
        looked = [one for one in group if not one["error_code"] and one["output"] is not None]
        if looked:
            answers[key] = {
                "answers": sum(one["weight"] for one in looked),
                "bad": sum(one["weight"] for one in looked if bad_answer(one)),
            }
    return counted, answers


def test_windows_and_quality_are_what_a_recomputation_by_hand_gives(make: Callable[..., Context]) -> None:
    """Three increments: new requests, late ones, and an inference table that changes versions of known ones."""
    ctx = make()
    limit = ctx.spark.conf.get("spark.sql.execution.arrow.maxBytesPerBatch")
    for rows in (inbox(1, 300, ("1", None)), inbox(2, 200, ("1", "2")), inbox(3, 300, ("2", "3"), "ai_gateway")):
        put(ctx.store, rows)
        for job in (conform, windows, quality):
            assert job(ctx) is not None
    assert ctx.spark.conf.get("spark.sql.execution.arrow.maxBytesPerBatch") == limit, "bodies need it"
    requests = delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
    (salt,) = delta.read(ctx.store.path(tables.SALTS)).to_pylist()
    assert salt["month"] == f"{START:%Y-%m}"
    counted, answers = by_hand(requests, salt["salt"])
    found = {(one.endpoint, one.model_version, one.stratum, one.start): one for one in measures.windows(ctx.store)}
    assert found.keys() == counted.keys()
    for key, mine in counted.items():
        one = found[key]
        assert (one.rows, one.requests, one.errors) == (mine.rows, mine.requests, mine.errors)
        assert one.error_requesters == mine.error_requesters
        assert (one.latency, one.ttft, one.feature_age) == (mine.latency, mine.ttft, mine.feature_age)
        assert (one.tokens_in, one.tokens_out) == (mine.tokens_in, mine.tokens_out)
        assert (one.told_in, one.told_out) == (mine.told_in, mine.told_out)
        assert (one.length, one.pace, one.failed_latency) == (mine.length, mine.pace, mine.failed_latency)
        assert {who: tuple(facts) for who, facts in one.callers.items()} == mine.callers
        assert one.scores.keys() == mine.scores.keys()
        assert all(one.scores[name] == pytest.approx(mine.scores[name]) for name in mine.scores)
        assert {name: one.quality[name] for name in ("answers", "bad") if name in one.quality} == answers.get(key, {})
    versions = [ctx.store.version(ctx.spark, one) for one in (tables.REQUESTS, tables.WINDOWS, tables.QUALITY)]
    assert [job(ctx) for job in (conform, windows, quality)] == [None, None, None]
    assert [ctx.store.version(ctx.spark, one) for one in (tables.REQUESTS, tables.WINDOWS, tables.QUALITY)] == versions


def rollout(errors: float, shift: float = 0.0) -> list[dict[str, Any]]:
    """Ten minutes of version 1, then twenty of versions 1 and 2 side by side; version 2 fails with `errors`."""
    r = random.Random(4)
    rows = []
    for i in range(3000):
        second = i * 1800 / 3000
        version = "2" if second >= 600 and r.random() < 0.5 else "1"
        failed = r.random() < (errors if version == "2" else 0.02)
        moved = shift if second >= 600 else 0.0
        rows.append(
            row(
                i, model_version=version, requested_at=START + timedelta(seconds=second), latency_ms=r.lognormvariate(4, 0.4),
                error_code="HTTP_500" if failed else None, status_code=500 if failed else 200, requester=f"u{r.randrange(40)}",
                tokens_in=20, tokens_out=r.randrange(20, 60), output="a fine answer", input="a question",
                features=[("moving", str(r.gauss(moved, 1))), ("steady", str(r.gauss(0, 1)))],
            )
        )  # fmt: skip
    return rows


def test_a_rollout_is_judged_by_what_its_versions_did_and_drift_names_the_column_that_moved(
    make: Callable[..., Context],
) -> None:
    judged = {}
    for name, errors in {"bad": 0.2, "same": 0.02}.items():
        ctx = make(name, START + timedelta(minutes=31))
        put(ctx.store, rollout(errors, shift=1.5 if name == "same" else 0.0))
        for job in (conform, windows, quality, *((drift,) if name == "same" else ())):
            job(ctx)
        said = run_judge(ctx)
        assert measures.verdicts(ctx.store) == said
        judged[name] = said[0]
    assert (judged["bad"].candidate, judged["bad"].prior) == ("2", "1")
    assert judged["bad"].state is State.ROLL_BACK, judged["bad"].reason
    assert judged["same"].state is not State.ROLL_BACK
    assert judged["same"].e_value < 20
    rows = delta.read(ctx.store.path(tables.DRIFT)).to_pylist()
    against = {(one["column"], one["model_version"]): one for one in rows if one["against"] == "reference"}
    for version in ("1", "2"):
        moving, steady = (against[f"feature.{name}", version] for name in ("moving", "steady"))
        assert moving["drifted"]
        assert not steady["drifted"]
        assert moving["evidently_drifted"]
        assert not steady["evidently_drifted"]
        assert moving["evidently_method"]
        assert moving["evidently_score"] is not None
        assert moving["reference"] == "before"
    assert not [one["column"] for one in rows if one["against"] == "prior" and one["drifted"]]
    html = Path(ctx.store.location) / "elsewhere" / "chat.html"
    assert evidently_html(ctx, "chat", html)["reference"] == "before"
    assert "feature.moving" in html.read_text()
    assert measures.drift_report(ctx.store, "chat", "2") is None
    made = evidently_html(ctx, "chat")["html"]
    assert measures.drift_report(ctx.store, "chat", "2") == Path(made)
    with pytest.raises(ConfigError, match="no version of nobody is known"):
        evidently_html(ctx, "nobody", html)


def both_saw(i: int, request_id: str, at: datetime, **own: Any) -> list[dict[str, Any]]:
    """A request as a span and as a row of a table."""
    shared = {"request_id": request_id, "requested_at": at, "received_at": START + timedelta(hours=1, minutes=i)}
    return [row(i, **shared, **own, trace_id=f"t{i}"), row(i, source="ai_gateway", **shared, **own)]


@pytest.mark.parametrize("together", [True, False])
def test_an_id_that_the_client_uses_again_is_another_attempt(make: Callable[..., Context], together: bool) -> None:
    """A retry (503, then 200) and a conversation of five turns: no record has values of two of them, and none is counted twice."""
    ctx = make()
    batches = [
        both_saw(0, "retried", START, status_code=503, tokens_out=None),
        both_saw(1, "retried", START + timedelta(seconds=2), tokens_out=9),
    ]
    batches += [both_saw(2 + i, "talk", START + timedelta(seconds=10 + i), tokens_out=i) for i in range(5)]
    for batch in [[one for pair in batches for one in pair]] if together else batches:
        put(ctx.store, batch)
        conform(ctx)
    put(ctx.store, batches[1])  # delivered again
    conform(ctx)
    kept = delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
    assert len(kept) == 7
    assert all(one["sources"] == ["ai_gateway", "otlp"] for one in kept)
    retried = sorted(
        (one for one in kept if one["request_id"].startswith("retried")), key=lambda one: one["requested_at"]
    )
    assert [(one["status_code"], one["error_code"], one["tokens_out"]) for one in retried] == [
        (503, "HTTP_503", None),
        (200, None, 9),
    ]
    assert sorted(one["tokens_out"] for one in kept if one["request_id"].startswith("talk")) == list(range(5))
