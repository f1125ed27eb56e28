"""Labels, output flags, cost, baselines, maintenance and forgetting on real Delta tables."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from jobs_support import START, put, row, stored
from typer.testing import CliRunner

from lastgood import tables
from lastgood.cli.app import app
from lastgood.collectors.reading import Origin, collect
from lastgood.errors import ConfigError
from lastgood.jobs.baseline import diff, list_baselines, set_baseline
from lastgood.jobs.conform import conform
from lastgood.jobs.cost import cost
from lastgood.jobs.maintain import forget, maintain
from lastgood.jobs.outcomes import outcomes
from lastgood.jobs.performance import performance
from lastgood.jobs.samples import samples
from lastgood.jobs.windows import quality, windows
from lastgood.record import telemetry
from lastgood.record.telemetry import arrow_schema, spark_ddl
from lastgood.settings import Settings, load
from lastgood.settings.prices import Prices
from lastgood.tables import Store, delta, measures
from lastgood.tables.catalog import WarehouseTable
from lastgood.tables.health import health
from lastgood.tables.runs import Context
from lastgood.workspace import local
from lastgood.workspace.stores import tables_of

Make = Callable[..., Context]


def rows_of(ctx: Context, table: tables.Table) -> list[dict[str, Any]]:
    return delta.read(ctx.store.path(table)).to_pylist()


def config_of(ctx: Context, folder: Path) -> str:
    """A settings file that names the store."""
    where = folder / "lastgood.yaml"
    where.write_text(json.dumps({"storage": ctx.store.location}))
    return str(where)


def report(ctx: Context, *scores: dict[str, Any]) -> None:
    base = {"endpoint": None, "source": "feedback", "at": START, "received_at": START + timedelta(hours=1)}
    rows = [base | one for one in scores]
    delta.append(
        ctx.store.path(tables.SCORES), pa.Table.from_pylist(rows, telemetry.arrow_schema(tables.SCORES.fields))
    )


def test_labels_reach_the_windows_of_their_requests_whichever_came_first(make: Make, tmp_path: Path) -> None:
    ctx = make()
    answers = {"r0": "[1]", "r1": "yes", "r2": "0", "r3": '["NO"]', "r4": "[2.5]", "r5": "cat", "r6": "hi"}
    rows = [row(int(one[1:]), output=out, trace_id=f"t{one}", requested_at=START) for one, out in answers.items()]
    truth = {"r0": "1", "r1": "no", "r2": "true", "r3": "false", "r4": "2.0", "r5": "cat"}
    put(ctx.store, rows[:4])
    conform(ctx)
    report(ctx, *({"request_id": one, "name": "label", "label": said} for one, said in truth.items()))
    outcomes(ctx)
    put(ctx.store, rows[4:])
    conform(ctx)
    report(ctx, {"request_id": "r6", "name": "thumbs", "value": 0.0, "at": START})
    report(ctx, {"request_id": "r6", "name": "thumbs", "value": 1.0, "at": START + timedelta(minutes=1)})
    for minutes, value in ((0, 0.75), (1, 0.5)):  # without a time of their own: the one that was received last
        late = {"at": None, "received_at": START + timedelta(hours=1, minutes=minutes)}
        report(ctx, {"request_id": "r6", "name": "unsure", "value": value} | late)
    put(ctx.store, [row(7, requested_at=START), row(8, requested_at=START)])  # their output was not captured
    conform(ctx)
    report(
        ctx,
        {"request_id": "r7", "name": "thumbs", "value": 0.5},
        {"request_id": "r8", "name": "thumbs", "value": math.inf},
    )
    report(
        ctx,
        {"request_id": None, "trace_id": "tr6", "name": "faithful", "value": 0.25},
        {"request_id": "none", "name": "x", "value": 1.0},
    )
    outcomes(ctx)
    put(
        ctx.store,
        [rows[0] | {"source": "ai_gateway", "attributes": [("a", "b")]}, rows[1] | {"attributes": [("a", "b")]}],
    )
    conform(ctx)
    before = stored(ctx.store, tables.REQUESTS)
    outcomes(ctx)
    assert stored(ctx.store, tables.REQUESTS) == before
    windows(ctx)
    quality(ctx)
    (found,) = measures.windows(ctx.store)
    assert found.scores == {}
    assert found.rows == 9
    names = ("correct", "precision", "recall", "abs_error", "thumbs")
    assert {name: (found.quality[f"{name}_n"], found.quality[name]) for name in names} == {
        "correct": (6, 3), "precision": (2, 1), "recall": (2, 1), "abs_error": (1, 0.5), "thumbs": (2, 1.5),
    }  # fmt: skip
    assert (found.quality["abs_error_sq"], found.quality["thumbs_sq"]) == (0.25, 1.25)
    assert (found.quality["answers"], found.quality["labelled"]) == (7, 6)
    (faithful,) = [dict(one["attributes"]) for one in rows_of(ctx, tables.REQUESTS) if one["request_id"] == "r6"]
    assert faithful == {"outcome.faithful": "0.25", "outcome.thumbs": "1.0", "outcome.unsure": "0.5"}
    told = CliRunner().invoke(app, ["outcomes", "chat", "--json", "--config", config_of(ctx, tmp_path)])
    said = json.loads(told.stdout)
    assert (said["new"], said["prior"], said["labelled"]["new"]) == ("2", None, 6 / 9)
    assert [(one["outcome"], one["new"]["n"], one["new"]["mean"]) for one in said["outcomes"]] == [
        ("correct", 6, 0.5), ("precision", 2, 0.5), ("recall", 2, 0.5), ("thumbs", 2, 0.75),
    ]  # fmt: skip


ANSWERS = {
    "not_json": [row(1, output="no JSON", attributes=[("response_format", "json")])],
    "not_schema": [row(2, output='{"a": 1}', attributes=[("response_format", "json:a,b")])],
    "deep": [row(7, output="[" * 1_000_000, attributes=[("response_format", "json:a")])],
    "script": [row(3, input="Tell me about the weather please, thanks", output="Погода сегодня хорошая и солнечная")],
    "toxic": [row(4, output="you Idiot!")],
    "echo": [row(5, input="a question of some length", output="a question of some length, indeed")],
    "template": [row(6, output="fine <|im_end|>")],
    "bad": [],
}
GOOD = [
    row(10, output='{"a": 1, "b": 2}', attributes=[("response_format", "json:a,b")]), row(11, output="[1]", attributes=[("gen_ai.output.type", "json")]),
    row(12, input="Расскажи мне про погоду сегодня, пожалуйста", output="Погода сегодня хорошая и солнечная"), row(13, output="idiotic"),
    row(14, output="héllo, das ist schön", input="short"),
]  # fmt: skip


def test_output_flags_hold_for_bad_answers_and_not_for_good_ones(make: Make) -> None:
    ctx = make(toxic_words=("idiot",))
    put(
        ctx.store,
        [one | {"requested_at": START} for group in ANSWERS.values() for one in group]
        + [one | {"requested_at": START} for one in GOOD],
    )
    conform(ctx)
    quality(ctx)
    total: dict[str, float] = {}
    for one in rows_of(ctx, tables.QUALITY):
        for name, count in one["quality"]:
            total[name] = total.get(name, 0.0) + count
    flagged = {name: count for name, count in total.items() if name in ANSWERS}
    assert flagged == {name: 1.0 for name in ANSWERS if name != "deep"} | {"not_json": 2.0, "bad": 7.0}
    assert total["answers"] == 12


PRICES = """
as_of: 2026-01-01
dbu: 0.5
idle_s: 600
pay_per_token: {m: {input: 10, output: 100}}
gpu: {small: {per_hour: 6, concurrency: 2}}
"""


def test_cost_is_by_version_team_and_day_and_shared_by_seconds_of_serving(make: Make, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    token, gpu = {"cost": {"model": "m"}}, {"cost": {"mode": "gpu"}}
    priced_apart = {
        "tokens_cached": 500,
        "tokens_reasoning": 10,
    }  # without prices of their own they cost as their side does
    ctx = make(prices=prices, endpoints={"chat": token, "rank": gpu, "untimed": gpu})
    same = {"requested_at": START, "latency_ms": 1000.0, "tokens_in": 1000, "tokens_out": 100, "weight": 2.0}
    put(ctx.store, [
        row(1, team="a", **same), row(2, team="a", **same | priced_apart), row(3, **same), row(4, endpoint="rank", team="a", **same),
        row(5, endpoint="rank", team="b", **same | {"latency_ms": 3000.0}), row(6, endpoint="other", **same),
        *(row(i, endpoint="untimed", team="ab"[i % 2], **same | {"latency_ms": None}) for i in (8, 9)),
    ])  # fmt: skip
    conform(ctx)
    cost(ctx)
    found = {(one["endpoint"], one["team"]): one for one in rows_of(ctx, tables.COST)}
    day = START.replace(hour=0)
    assert {one["window_start"] for one in found.values()} == {day}
    assert {key: (one["requests"], one["dbu"], one["money"]) for key, one in found.items()} == {
        ("chat", "a"): (4.0, 0.08, 0.04), ("chat", "?"): (2.0, 0.04, 0.02), ("rank", "a"): (2.0, 0.25, 0.125),
        ("rank", "b"): (2.0, 0.75, 0.375), ("other", "?"): (2.0, None, None),
        ("untimed", "a"): (2.0, 0.5, 0.25), ("untimed", "b"): (2.0, 0.5, 0.25),
    }  # fmt: skip
    assert (found["chat", "a"]["tokens_cached"], found["chat", "a"]["tokens_reasoning"]) == (1000.0, 20.0)
    prices.write_text(PRICES.replace("output:", "cached: 1, output:", 1))
    put(ctx.store, [row(7, team="a", **same)])
    conform(ctx)
    cost(ctx)
    cheaper = {(one["endpoint"], one["team"]): one["dbu"] for one in rows_of(ctx, tables.COST)}["chat", "a"]
    price = Prices(**yaml.safe_load(PRICES)).pay_per_token["m"]
    assert cheaper == pytest.approx(0.12 - 1000 * (price.input - 1) / 1e6)


def some(n: int, shift: float, first: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        row(first + i, output="an answer: 7", input="a question", requested_at=START + timedelta(seconds=i), requester="ann" if i % 2 else "bob",
            features=[("x", str((i * 37) % 101 / 10 + shift)), ("kind", "ab"[i % 2])], tokens_in=i % 50, **more) for i in range(n)
    ]  # fmt: skip


def by_a_source_that_names_nobody(ctx: Context, asked: dict[str, Any]) -> None:
    """A forgotten request comes again without its requester, and somebody else's of the same id an hour later."""
    place = {
        "endpoint": asked["endpoint"],
        "request_id": asked["request_id"],
        "requester": None,
        "source": "ai_gateway",
    }
    late = asked["requested_at"] + timedelta(seconds=40)
    put(ctx.store, [row(0, requested_at=late, input="ann's prompt", **place)])  # by a source that names nobody
    conform(ctx)
    assert {one["requester"] for one in rows_of(ctx, tables.REQUESTS)} == {"bob"}
    another = asked["requested_at"] + timedelta(hours=1)
    put(ctx.store, [row(0, requested_at=another, input="of somebody whose client counts from one, too", **place)])
    conform(ctx)
    assert [one["requested_at"] for one in rows_of(ctx, tables.REQUESTS) if one["requester"] is None] == [another]


def judged(ctx: Context, **pairs: list[str]) -> None:
    """Pairs by id: the requests whose answers were judged."""
    rows = [
        {"endpoint": "chat", "pair_id": name, "request_ids": asked, "reasons": ["as ann says", None]}
        for name, asked in pairs.items()
    ]
    delta.append(
        ctx.store.path(tables.JUDGED), pa.Table.from_pylist(rows, telemetry.arrow_schema(tables.JUDGED.fields))
    )


def test_baselines_are_numbered_listed_and_compared_and_a_requester_can_be_forgotten(make: Make) -> None:
    ctx = make(now=START + timedelta(hours=2))
    put(
        ctx.store,
        [*some(300, 0.0), *some(300, 8.0, 1000, endpoint="other"), row(9000, requester="ann", latency_ms=-1.0)],
    )
    conform(ctx)
    samples(ctx)
    span = (START, START + timedelta(seconds=200))
    first = set_baseline(ctx.store, "chat", span, ctx.clock(), note="first")
    assert first == {"endpoint": "chat", "baseline": 1, "rows": 200}
    put(ctx.store, some(300, 8.0, 2000, model_version="3"))
    conform(ctx)
    samples(ctx)
    assert (
        set_baseline(ctx.store, "chat", (START, START + timedelta(hours=1)), ctx.clock(), version="3")["baseline"] == 2
    )
    assert [(one["baseline"], one["note"], one["versions"], one["columns"]) for one in list_baselines(ctx.store, "chat")] == [
        (1, "first", ["2"], ["kind", "x"]), (2, "", ["3"], ["kind", "x"]),
    ]  # fmt: skip
    moved = {one["column"]: one["drifted"] for one in diff(ctx.store, "chat", 1, 2, 0.1, ctx.clock())}
    assert [name for name, yes in moved.items() if yes] == ["feature.x"]
    with pytest.raises(ConfigError, match="chat has no baseline 7; there are: 1, 2"):
        diff(ctx.store, "chat", 1, 7, 0.1, ctx.clock())
    with pytest.raises(ConfigError, match="0 sampled requests in that time, a baseline needs 50"):
        set_baseline(ctx.store, "nobody", span, ctx.clock())
    windows(ctx)
    price = load(storage=ctx.store.location, default={"performance": {"kind": "number", "score": r"(\d+)"}})
    performance(replace(ctx, settings=price))
    assert "r1" in {each["request_id"] for each in rows_of(ctx, tables.PREDICTIONS)}
    counted = measures.windows(ctx.store)
    report(ctx, {"request_id": "r1", "endpoint": "chat", "name": "thumbs", "value": 1.0})
    report(ctx, {"request_id": "r3", "name": "thumbs", "value": 1.0})  # which names no endpoint
    judged(ctx, a=["r9003", "r1"], b=["r9001", "r9003"])
    assert rows_of(ctx, tables.FORGOTTEN) == []
    would = forget(replace(ctx, dry_run=True), "ann")
    assert would["requests"] > 0
    assert sum(one["requester"] == "ann" for one in rows_of(ctx, tables.REQUESTS)) == 450
    asked = next(each for each in rows_of(ctx, tables.REQUESTS) if each["requester"] == "ann")
    done = forget(ctx, "ann")
    assert (done["requests"], done["scores"], done["quarantine"], done["judged"]) == (450, 2, 1, 1)
    assert [pair["pair_id"] for pair in rows_of(ctx, tables.JUDGED)] == ["b"], "pairs with an answer that she was given"
    for table in (
        tables.REQUESTS,
        tables.INBOX,
        tables.SAMPLES,
        tables.PREDICTIONS,
        tables.BASELINES,
        tables.QUARANTINE,
    ):
        left = json.dumps(rows_of(ctx, table), default=lambda one: one.decode() if isinstance(one, bytes) else str(one))
        assert '"ann"' not in left, table.name
        assert "r9000" not in left, table.name
    kept = {one["request_id"] for one in rows_of(ctx, tables.REQUESTS)}
    for table in (tables.SAMPLES, tables.PREDICTIONS):
        assert {one["request_id"] for one in rows_of(ctx, table)} == kept, table.name
    windows(ctx)
    assert measures.windows(ctx.store) == counted
    put(ctx.store, some(300, 0.0))  # the source brings them again
    conform(ctx)
    assert {one["requester"] for one in rows_of(ctx, tables.REQUESTS)} == {"bob"}
    by_a_source_that_names_nobody(ctx, asked)
    later = ctx.clock() + timedelta(minutes=1)
    put(ctx.store, [row(9001, requester="ann", requested_at=later, received_at=later)])
    conform(ctx)
    assert [one["request_id"] for one in rows_of(ctx, tables.REQUESTS) if one["requester"] == "ann"] == ["r9001"]
    stones = rows_of(ctx, tables.FORGOTTEN)
    assert len({stone["salt"] for stone in stones}) == 1
    assert len(stones) > 1, "one of the person, others of the requests"
    assert "ann" not in json.dumps(stones, default=str)
    with pytest.raises(ConfigError, match="forget needs a requester"):
        forget(ctx, " ")


def test_maintenance_deletes_what_is_old_strips_bodies_and_merges_files_and_status_tells(
    make: Make, tmp_path: Path
) -> None:
    now = START + timedelta(days=20)
    ctx = make(
        now=now, retention_days={"requests": 10}, endpoints={"slim": {"capture": "none"}, "short": {"body_days": 5}}
    )
    body = {"input": "q", "output": "a", "features": [("x", "1")]}
    ages = {"chat": 1, "old": 15, "slim": 1, "short": 6}
    for i, (name, days) in enumerate(ages.items()):
        at = now - timedelta(days=days)
        put(ctx.store, [row(10 * i + j, endpoint=name, requested_at=at, received_at=at, **body) for j in range(3)])
        conform(ctx)
    for i in range(8):
        new = {
            "endpoint": "chat",
            "request_id": f"r{1000 + i}",
            "requested_at": now - timedelta(hours=1),
            "weight": 1.0,
            "latency_ms": 9.0,
        }
        rows = [new | {"model_version": "2", "latency_scope": "client", "sources": ["otlp"], "received_at": now}]
        delta.append(
            ctx.store.path(tables.REQUESTS), pa.Table.from_pylist(rows, telemetry.arrow_schema(tables.REQUESTS.fields))
        )
    windows(ctx)
    before = measures.windows(ctx.store)
    would = {one["table"]: one for one in maintain(replace(ctx, dry_run=True))}
    assert (would["requests"]["deleted"], would["requests"]["bodies_removed"]) == (3, 6)
    done = {one["table"]: one for one in maintain(ctx)}
    assert not [one for one in done.values() if "error" in one]
    assert (done["requests"]["deleted"], done["requests"]["bodies_removed"]) == (3, 6)
    assert done["requests"]["files"] < done["requests"]["files_before"]
    kept = rows_of(ctx, tables.REQUESTS)
    assert {(one["endpoint"], one["output"]) for one in kept if len(one["request_id"]) < 5} == {
        ("chat", "a"),
        ("slim", None),
        ("short", None),
    }
    again = {one["table"]: one for one in maintain(ctx)}
    assert (again["requests"]["deleted"], again["requests"]["bodies_removed"]) == (0, 0)
    windows(ctx)
    assert measures.windows(ctx.store) == before
    told = health(ctx.store, datetime.now(UTC))
    sizes = {one["table"]: one for one in told["tables"]}
    assert (sizes["requests"]["rows"], sizes["requests"]["files"]) == (17, done["requests"]["files"])
    assert {(one["job"], one["source"]): one["behind"] for one in told["jobs"]}["windows", "requests"] == 0
    settings = config_of(ctx, tmp_path)
    said = CliRunner().invoke(app, ["status", "--config", settings, "--json"])
    assert said.exit_code == 0, said.output
    assert {one["table"] for one in json.loads(said.output)["tables"]} == {one.name for one in tables.ALL}
    shown = CliRunner().invoke(app, ["cost", "chat", "--config", settings, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["requests"] == 11


def test_jobs_and_status_work_on_tables_that_have_names_in_a_catalog(
    spark: Any, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same requests in a folder and in a schema: the same windows, and the same status but for the files' ages."""
    monkeypatch.setenv("LOCAL", local.LocalConfig.token)
    folder = make("folder")
    spark.sql(f"CREATE SCHEMA `2024` LOCATION '{tmp_path / 'named'}'")
    try:
        store = Store("spark_catalog.2024")
        assert store.in_catalog
        store.ensure(spark)
        named = replace(folder, store=store)
        put(folder.store, [row(i, error_code="E" if i % 7 == 0 else None) for i in range(50)])
        spark.read.format("delta").load(folder.store.path(tables.INBOX)).write.format("delta").mode(
            "append"
        ).saveAsTable(store.sql(tables.INBOX))
        for ctx in (folder, named):
            for job in (conform, windows, quality):
                job(ctx)
        was = sorted(map(str, folder.store.read(spark, tables.WINDOWS).toPandas().to_dict("records")))
        assert sorted(map(str, store.read(spark, tables.WINDOWS).toPandas().to_dict("records"))) == was
        catalog = local.LocalCatalog({store.location: str(tmp_path / "named")})
        with local.serve(local.LocalConfig(catalog=catalog)) as space:
            asked = Settings(storage=store.location, workspace={"host": space.url, "token_env": "LOCAL"})
            told = [health(each, datetime.now(UTC)) for each in (folder.store, tables_of(asked))]
        assert [row["reached by"] for row in told[1]["storage"]] == ["lent credentials (managed table)"]
        jobs = [{(one["job"], one["behind"], one["rows_in"], one["rows_out"]) for one in each["jobs"]} for each in told]
        assert jobs[0] == jobs[1]
        assert {one[:2] for one in jobs[0]} == {("conform", 0), ("windows", 0), ("quality", 0)}
        sizes = [{one["table"]: one["rows"] for one in each["tables"]} for each in told]
        assert sizes[0] == sizes[1]
        assert sizes[0]["requests"] == 50
    finally:
        spark.sql("DROP SCHEMA `2024` CASCADE")


def test_a_name_that_needs_backticks_is_collected_and_a_warehouse_takes_every_statement(
    spark: Any, make: Make, tmp_path: Path
) -> None:
    """The platform names payload tables after endpoints, which have dashes; of the names that need backticks plain Spark takes numbers only. What
    is sent to a warehouse is run by Spark itself, but for the markers of parameters, which Delta's parser for it does not know."""
    ctx = make("folder")

    class Warehouse:
        poll_s = 0.0

        def query(self, statement: str, parameters: dict[str, object]) -> pa.Table:
            given = {name: tables.literal(str(value)) for name, value in parameters.items()}
            return spark.sql(re.sub(r":([a-z]\w*)(?=[ ,)]|$)", lambda marker: given[marker[1]], statement)).toArrow()

    name = "spark_catalog.2025.support_chat_payload"
    spark.sql(f"CREATE SCHEMA `2025` LOCATION '{tmp_path / 'named-2'}'")
    try:
        ddl = spark_ddl((*tables.BASELINES.fields, *tables.ENDPOINT_MINUTES.fields[1:]))
        made = f"CREATE TABLE {tables.sql_name(name)} ({ddl}) USING delta TBLPROPERTIES (delta.enableChangeDataFeed = true)"
        spark.sql(made)
        home = WarehouseTable(name, Warehouse())  # type: ignore[arg-type]
        fields = (*tables.BASELINES.fields, *tables.ENDPOINT_MINUTES.fields[1:])
        samples: dict[str, Any] = {
            "string": "e'\\\"{`\n", "double": float("inf"), "bigint": 2**53 + 1, "boolean": True, "timestamp": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
            "map<string,double>": {"a`'": 0.5}, "map<string,string>": {"a": "b"}, "int": 3,
        }  # fmt: skip
        given = pa.Table.from_pylist(
            [{field.name: samples[field.type] for field in fields}, {field.name: None for field in fields}],
            arrow_schema(fields),
        )
        home.append(given)
        assert home.version() == 1
        stored = home.read().to_pylist(maps_as_pydicts="strict")
        assert sorted(stored, key=str) == sorted(given.to_pylist(maps_as_pydicts="strict"), key=str)
        assert home.read(["endpoint"], [("endpoint", "=", samples["string"])]).num_rows == 1
        assert home.newest("minute") == samples["timestamp"]
        assert {row["_change_type"] for row in home.changes(1, 1)} == {"insert"}
        assert home.identity()
        facts = home.facts()
        assert facts is not None
        assert facts["rows"] == 2

        spark.sql(f"DROP TABLE {tables.sql_name(name)}")
        put(ctx.store, [row(i) for i in range(5)])
        frame = spark.read.format("delta").load(ctx.store.path(tables.INBOX)).drop("source", "received_at")
        frame.write.format("delta").option("delta.enableChangeDataFeed", "true").saveAsTable(tables.sql_name(name))
        run = collect(ctx, Origin(name))
        assert run is not None
        assert run.rows_in == 5
        assert collect(ctx, Origin(name)) is None, "its change feed was found"
    finally:
        spark.sql("DROP SCHEMA `2025` CASCADE")
