"""The release checklist run for real on a staging endpoint, and the promotion it allows, with the judge between the steps."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import yaml
from alerts_support import verdict
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from soak import scaled
from typer.testing import CliRunner, Result
from waiting import until

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import FakePagerDuty, serve_fake, serving
from lastgood.alerts.registry import ROLLED_BACK
from lastgood.alerts.rehearse import Rehearsal, _newest, fields, sendable
from lastgood.alerts.release import CHECKS, quantile_interval
from lastgood.alerts.store import Store
from lastgood.cli.app import app
from lastgood.errors import LastgoodError, RefusedError
from lastgood.jobs.fake_model import app as fake_model
from lastgood.record.telemetry import arrow_schema
from lastgood.record.verdict import State
from lastgood.settings import EndpointSettings
from lastgood.settings.endpoint import Release
from lastgood.tables import delta
from lastgood.tables.homes import FolderTable, TableHome
from lastgood.workspace import local
from lastgood.workspace.local import Running

MODEL = local.MODELS[local.CHAT]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROBE = {"prompt": "What is a list?", "max_tokens": 8}


class World:
    def __init__(self, folder: Path, running: Running, pager: FakePagerDuty) -> None:
        self.folder, self.running, self.state = folder, running, running.service.state
        self.config = folder / "lastgood.yaml"
        release = {
            "probe": PROBE, "response_fields": ["generated_text", "usage"], "permissions": {"ops@example.com": "CAN_MANAGE"},
            "latency_p95_ms": 5000, "searchable_s": 20, "features": False, "probes": 80, "dashboard_url": pager.url.replace("/v2/enqueue", "/events"),
        }  # fmt: skip
        payload = f"{folder}/payload/local_payload"
        policy = {"promote_shares": [20, 100], "promote_step_s": 0, "promote_timeout_s": 30, "ready_timeout_s": 30}
        self.document: dict[str, Any] = {
            "storage": str(folder / "data"),
            "workspace": {"host": running.url, "token_env": "LOCAL_TOKEN", "retry_timeout_s": 5},
            "pagerduty": {"url": pager.url},
            "endpoints": {
                "staging": {"release": release, "payload_table": payload},
                "chat": {"staging": "staging", "policy": policy, "release": release},
            },
        }
        self.save()

    def save(self) -> None:
        self.config.write_text(yaml.safe_dump(self.document))

    def run(self, *arguments: str) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.config)])
        if isinstance(result.exception, LastgoodError):
            raise result.exception
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").output)

    def make(self, name: str, shares: dict[str, int]) -> None:
        entities = [local.entity(MODEL, v) for v in shares]
        routes = [{"served_entity_name": f"support_chat-{v}", "traffic_percentage": s} for v, s in shares.items()]
        config = {"served_entities": entities, "traffic_config": {"routes": routes}}
        self.state.create({"name": name, "config": config, "tags": [{"key": "owner", "value": "ann"}]})
        self.state.put_gateway(name, {"rate_limits": [{"calls": 100, "renewal_period": "minute"}]})
        grant = {"user_name": "ops@example.com", "permission_level": "CAN_MANAGE"}
        self.state.permissions(str(self.state.get(name)["id"]), {"access_control_list": [grant]})

    def traffic(self, name: str) -> dict[str, int]:
        entities, shares = self.state.serving(name)
        return {e["entity_version"]: share for e, share in zip(entities, shares, strict=True)}

    def store(self) -> Store:
        return Store(f"sqlite:///{self.folder}/data/state.db")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    settings = local.LocalConfig(
        f"{tmp_path}/payload", update_s=0.2, latency_scale=0.1, payload_delay_s=0.2, payload_batch_s=0.2
    )
    with local.serve(settings) as running, serve_fake() as pager:
        monkeypatch.setenv("LOCAL_TOKEN", running.token)
        monkeypatch.setenv("LASTGOOD_PAGERDUTY_KEY", "R0")
        world = World(tmp_path, running, pager)
        world.make("staging", {"3": 100, "2": 0})
        world.make("chat", {"2": 100})
        yield world


def test_a_good_endpoint_passes_every_row_and_is_as_before(world: World) -> None:
    done = world.json("release", "check", "staging")
    assert {row["name"]: row["observed"] for row in done["rows"] if not row["passed"]} == {}
    assert [row["name"] for row in done["rows"]] == [name for name, _, _ in CHECKS]
    assert (done["endpoint"], done["version"], done["passed"]) == ("staging", "3", True)
    drilled = next(row["observed"] for row in done["rows"] if row["name"] == "rollback tested")
    assert "version 3 to 2 in" in drilled and "and back in" in drilled
    assert world.traffic("staging") == {"3": 100, "2": 0}
    assert "passed" in world.run("audit", "show", "--endpoint", "staging").output
    with world.store().read() as tx:
        assert tx.rolled_back("staging") == set(), "a drill is not a rollback"


def test_each_failing_row_says_what_and_how_to_fix_it(world: World) -> None:
    mine = world.document["endpoints"]["staging"]
    mine["release"] |= {"response_fields": ["answer"], "latency_p95_ms": 0.001, "searchable_s": 0.3, "features": True}
    mine["release"] |= {"permissions": {"ops@example.com": "CAN_QUERY"}, "dashboard_url": "http://127.0.0.1:9/"}
    del mine["payload_table"]
    world.save()
    world.state.patch_tags("staging", {"delete_tags": ["owner"]})
    world.state.put_gateway("staging", {})
    world.running.service.registry.tag(MODEL, "3", ROLLED_BACK, "2026-02-01T10:00:00+00:00")
    entity = local.entity(MODEL, "3", scale_to_zero_enabled=True)
    routes = [{"served_entity_name": entity["name"], "traffic_percentage": 100}]
    world.state.update("staging", {"served_entities": [entity], "traffic_config": {"routes": routes}})
    until(lambda: world.state.get("staging")["state"]["config_update"] != "IN_PROGRESS", "the update is through")
    result = world.run("release", "check", "staging")
    assert result.exit_code == 1
    done = world.json("release", "check", "staging")
    failed = {row["name"]: row for row in done["rows"] if not row["passed"]}
    assert set(failed) == {name for name, _, _ in CHECKS} - {
        "anonymous requests refused",
        "token accepted",
        "alerts exist",
        "rehearsed",
    }
    assert all(row["fix"] for row in failed.values())
    assert "ops@example.com holds CAN_MANAGE, not CAN_QUERY" in failed["permissions as configured"]["observed"]
    assert "no prior version is known" in failed["rollback tested"]["observed"]
    assert failed["ownership assigned"]["fix"] == "tag staging with owner"


def test_a_version_that_was_not_checked_is_not_promoted(world: World) -> None:
    with pytest.raises(RefusedError, match="version 3 was not checked on staging"):
        world.run("promote", "chat", "3", "--yes")
    world.state.patch_tags("staging", {"delete_tags": ["owner"]})
    assert world.run("release", "check", "staging").exit_code == 1
    with pytest.raises(RefusedError, match=r"failed \(ownership assigned\): run `lastgood release check staging`"):
        world.run("promote", "chat", "3", "--yes")
    with pytest.raises(RefusedError, match="staging is not set"):
        world.run("promote", "staging", "3", "--yes")
    assert world.traffic("chat") == {"2": 100}


class Judge:
    """Says the same of version 3 again and again, like the judge job."""

    def __init__(self, world: World, state: State) -> None:
        from lastgood import tables
        from lastgood.service import serve
        from lastgood.settings import load

        self.state, self.seen = state, set[int]()
        settings = load(world.config)
        self.acts = serve.controller(settings, tables.Store(settings.storage))
        self.world, self._stop = world, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            share = self.world.traffic("chat").get("3", 0)
            self.seen.add(share)
            if share:
                self.acts.handle(verdict(self.state, self.acts.clock()))

    def __enter__(self) -> "Judge":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


def checked(world: World) -> None:
    assert world.json("release", "check", "staging")["passed"]


def test_a_healthy_version_takes_all_traffic_in_steps_and_the_prior_one_stays(world: World) -> None:
    checked(world)
    with Judge(world, State.HEALTHY) as judge:
        done = world.json("promote", "chat", "3", "--yes")
    assert done["promoted"] and [step["state"] for step in done["steps"]] == ["Done", "Done"]
    assert judge.seen >= {0, 20}
    assert world.traffic("chat") == {"2": 0, "3": 100}
    assert done["steps"][-1]["diff"][-3].startswith("registry: the alias lastgood of"), done["steps"][-1]["diff"]
    assert world.json("promote", "chat", "3", "--yes")["steps"] == [], "there is nothing left to do"
    with world.store().read() as tx:
        assert tx.rolled_back("chat") == set()
        assert ("3") in [version for version, _, _ in tx.served_well("chat")]


def test_the_judge_stops_a_promotion_that_goes_bad(world: World) -> None:
    checked(world)
    with Judge(world, State.ROLL_BACK):
        result = world.run("promote", "chat", "3", "--yes")
    assert result.exit_code == 1
    assert "Failed: the judge says RollBack" in result.output
    with world.store().read() as tx:
        kinds = {r.plan.kind: r for r in tx.rollbacks("chat")}
        assert set(kinds) == {"promote", "rollback"}, "and a rollback is proposed"
        assert kinds["rollback"].plan.prior_version == "2"  # type: ignore[index]
    with pytest.raises(RefusedError, match="an incident of chat version 3 is open"):
        world.run("promote", "chat", "3", "--yes")


def test_a_version_that_the_registry_calls_rolled_back_is_promoted_only_if_a_person_says_so(world: World) -> None:
    model = local.MODELS[local.CHAT]
    checked(world)
    world.running.service.registry.tag(model, "3", ROLLED_BACK, "2026-02-01T10:00:00+00:00")
    with pytest.raises(RefusedError, match=r"the registry says that version 3 was rolled back at 2026-02-01.*--again"):
        world.run("promote", "chat", "3", "--yes")
    row = next(row for row in world.json("release", "check", "staging")["rows"] if row["name"] == "registry agrees")
    assert "was rolled back" in row["observed"]
    with Judge(world, State.HEALTHY):
        done = world.json("promote", "chat", "3", "--again", "--yes")
    assert done["promoted"]


@hypothesis_settings(max_examples=scaled(200))
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_the_interval_holds_the_quantile(values: list[float], q: float) -> None:
    low, value, high = quantile_interval(sorted(values), q)
    assert low <= value <= high


def test_the_interval_covers_the_true_quantile_as_often_as_it_says() -> None:
    rng, hits, runs = np.random.default_rng(1), 0, 4000
    for sample in rng.exponential(size=(runs, 100)):
        low, _, high = quantile_interval(sorted(sample), 0.95)
        hits += low <= -np.log(0.05) <= high
    assert hits / runs >= 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5
    assert quantile_interval([1.0] * 71, 0.95)[2] == float("inf") and quantile_interval([1.0] * 73, 0.95)[2] == 1.0


# rehearsal: recorded requests, sent to a version that nobody uses yet


@pytest.fixture
def recorded(world: World) -> World:
    """An endpoint with version 2 in use and 3 at 0 %, and 60 requests of people in its inference table."""
    payload = f"{world.folder}/payload/local_payload"
    policy = {"promote_shares": [20, 100], "promote_step_s": 0, "promote_timeout_s": 30}
    world.document["endpoints"]["shop"] = {
        "payload_table": payload,
        "policy": policy,
        "release": {"rehearse": True, "rehearse_requests": 60, "rehearse_per_second": 50},
        "staging": "staging",
    }
    world.save()
    world.make("shop", {"2": 100, "3": 0})
    for i in range(60):
        assert ask(world, {"prompt": f"What is a list, asked by {i}?", "max_tokens": 8}) == 200
    world.running.flush()
    return world


def ask(world: World, body: dict[str, Any]) -> int:
    address = f"{world.running.url}/serving-endpoints/shop/invocations"
    return httpx.post(address, json=body, headers={"Authorization": f"Bearer {world.running.token}"}).status_code


def rehearsed(world: World, *more: str) -> Any:
    return world.json("rehearse", "shop", "3", "--requests", "60", "--per-second", "100", *more)


def test_a_version_that_is_as_good_passes_its_rehearsal_and_no_user_sees_it(recorded: World) -> None:
    done = rehearsed(recorded)
    assert (done["outcome"]["state"], done["outcome"]["requests"], done["prior"]) == ("as good", 60, "2"), done
    assert done["tokens"] > 60 * 2 * 8 and done["left_out"] == {}
    assert recorded.traffic("shop") == {"2": 100, "3": 0}
    assert "rehearsal: as good" in recorded.run("audit", "show", "--endpoint", "shop").output


@pytest.mark.parametrize(
    ("fault", "metric", "words"),
    [
        (local.Fault(error_share=0.15), "errors", "of its requests fail (HTTP_500)"),
        (local.Fault(latency_factor=100.0), "latency", "times as long"),
    ],
)
def test_a_rehearsal_finds_what_is_worse(recorded: World, fault: local.Fault, metric: str, words: str) -> None:
    recorded.state.faults["shop", "3"] = fault
    done = recorded.run("rehearse", "shop", "3", "--requests", "60", "--per-second", "100", "--json")
    assert done.exit_code == 1
    document = json.loads(done.output)
    worse = {finding["metric"]: finding["sentence"] for finding in document["outcome"]["findings"] if finding["worse"]}
    assert metric in worse and words in worse[metric], document


def test_a_promotion_begins_with_a_rehearsal_and_stops_where_it_is_worse(recorded: World) -> None:
    recorded.json("release", "check", "staging")
    recorded.state.faults["shop", "3"] = local.Fault(error_share=0.3)
    with pytest.raises(RefusedError, match="the rehearsal of version 3 is worse"):
        recorded.run("promote", "shop", "3", "--yes")
    assert recorded.traffic("shop") == {"2": 100, "3": 0}


def test_what_cannot_be_rehearsed_is_refused_by_name(recorded: World) -> None:
    with pytest.raises(RefusedError, match="version 7 is not ready on shop: deploy it at 0% first"):
        recorded.run("rehearse", "shop", "7")
    with pytest.raises(RefusedError, match="version 2 takes 100% of the traffic already"):
        recorded.run("rehearse", "shop", "2")
    with pytest.raises(RefusedError, match=r"set endpoints\.chat2\.payload_table"):
        recorded.make("chat2", {"2": 100, "3": 0})
        recorded.document["endpoints"]["chat2"] = {}
        recorded.save()
        recorded.run("rehearse", "chat2", "3")
    short = rehearsed(recorded, "--tokens", "100")
    assert short["ended"] == "100 tokens are spent" and short["outcome"]["state"] == "undecided"


def test_requests_that_may_have_effects_are_not_sent_again() -> None:
    """With tools, of agents, of what the server keeps, redacted, cut or broken: counted by why; a stream is asked for in one piece."""
    safe, plain = EndpointSettings(release=Release(rehearse_tools=True), redact={"CASE": "x"}), EndpointSettings()
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 3}
    assert sendable(json.dumps(body), plain) == ("", {"messages": body["messages"], "max_tokens": 3})
    part = {"type": "tool_result", "tool_use_id": "1", "content": "done"}
    for more in (
        {"tools": [{"type": "function"}]}, {"input": [{"role": "user", "content": "book it"}]}, {"messages": [{"role": "tool", "content": "done"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, {"messages": [{"role": "user", "content": [part]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, {"custom_inputs": {"user": "7"}}, {"web_search_options": {"a": 1}},
    ):  # fmt: skip
        assert "use tools" in sendable(json.dumps(body | more), plain)[0], more
        assert sendable(json.dumps(body | more), safe)[0] == ""
    for fine in (
        {"input": ["a text", "another"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "my tool"}]}]},
    ):
        assert sendable(json.dumps(fine), plain) == ("", fine), "texts to embed, and words about tools, are no tools"
    for more in ({"previous_response_id": "r-1"}, {"background": True}):
        assert "what the server keeps" in sendable(json.dumps(body | more), safe)[0]
    for text in ("write to [EMAIL]", "call <PHONE_NUMBER>", "about [CASE]"):
        assert "are redacted" in sendable(json.dumps({"prompt": text}), safe)[0], text
    assert "have no body" in sendable("", plain)[0]
    assert sendable('{"messages": [', plain)[0] == "are cut or are no JSON"
    assert sendable("[1]", plain)[0] == "are no JSON object"


class Counting:
    """A table's home that counts the bodies that were read."""

    def __init__(self, home: TableHome) -> None:
        self.home, self.bodies = home, 0

    def read(self, columns: list[str], filters: Any) -> pa.Table:
        rows = self.home.read(columns, filters)
        self.bodies += rows.num_rows if "request" in columns else 0
        return rows


def test_a_rehearsal_reads_the_bodies_that_it_drew_and_no_others(tmp_path: Path) -> None:
    """Whatever the generation of the table, and however many requests there are of the day."""
    for clock, key, at in (
        ("request_time", "databricks_request_id", NOW), ("timestamp_ms", "databricks_request_id", int(NOW.timestamp() * 1000)),
        ("event_time", "invocation_id", NOW),
    ):  # fmt: skip
        rows = [
            {key: f"id {i}", clock: at, "request": f'{{"prompt": "{i}"}}', "response": "x" * 50} for i in range(3000)
        ]
        path = str(tmp_path / clock)
        delta.append(path, pa.Table.from_pylist(rows))
        home = Counting(FolderTable(path))
        texts = [text for text, _ in zip(_newest(home, NOW - timedelta(days=1)), range(200), strict=False)]  # type: ignore[arg-type]
        assert len(set(texts)) == 200 and home.bodies == 400
        assert len(list(_newest(home, NOW - timedelta(days=1)))) == 2000  # type: ignore[arg-type]
        assert list(_newest(home, NOW + timedelta(days=1))) == []  # type: ignore[arg-type]
    assert list(_newest(FolderTable(str(tmp_path / "nothing")), NOW)) == []


def test_an_agent_whose_requests_name_no_tools_is_not_rehearsed(recorded: World) -> None:
    steps = [
        {
            "endpoint": "shop",
            "request_id": "r",
            "trace_id": "t",
            "span_id": "s",
            "kind": "tool",
            "name": "book",
            "started_at": datetime.now(UTC),
        }
    ]
    schema = arrow_schema(tables.STEPS.fields)
    delta.append(
        f"{recorded.folder}/data/steps",
        pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in steps], schema),
    )
    with pytest.raises(RefusedError, match="shop is an agent, its requests call tools"):
        rehearsed(recorded)
    recorded.document["endpoints"]["shop"]["release"]["rehearse_tools"] = True
    recorded.save()
    assert rehearsed(recorded)["outcome"]["state"] == "as good"


def test_an_endpoint_that_changes_meanwhile_and_the_same_endpoint_by_name_are_refused(
    recorded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="takes 100% of the traffic already"):
        recorded.run("rehearse", "shop", "2", "--on", "shop")
    asked = Rehearsal._asked

    def change(self: Rehearsal, *given: Any) -> Any:
        done = asked(self, *given)
        routes = [
            {"served_entity_name": f"support_chat-{v}", "traffic_percentage": share}
            for v, share in (("2", 90), ("3", 10))
        ]
        config = {"served_entities": [local.entity(MODEL, v) for v in ("2", "3")], "traffic_config": {"routes": routes}}
        recorded.state.update("shop", config)
        until(lambda: recorded.traffic("shop") == {"2": 90, "3": 10}, "the traffic is shifted")
        return done

    monkeypatch.setattr(Rehearsal, "_asked", change)
    with pytest.raises(RefusedError, match="shop was changed during the rehearsal"):
        rehearsed(recorded)


def test_a_models_opinion_is_shown_and_paid_from_the_days_budget(recorded: World) -> None:
    """It calls no version worse: nobody has corrected it here. An exact scorer's word does."""
    with serving(fake_model()) as base:
        recorded.document["endpoints"]["shop"]["scoring"] = {
            "calls_per_day": 200, "scorers": [
                {"name": "polite", "model": "judge-1", "base_url": f"{base}/v1", "price_in": 1.0}, {"name": "short", "kind": "function", "exact": True,
                                                                                                   "call": "lastgood.jobs.fake_model:short"},
            ],
        }  # fmt: skip
        recorded.save()
        done = rehearsed(recorded)
    findings = {finding["metric"]: finding for finding in done["outcome"]["findings"]}
    assert findings["opinions"]["worse"] is False and "scores" in findings, done
    rows = delta.read(f"{recorded.folder}/data/judged").to_pylist()
    assert len(rows) == 100 and {(row["alike"], row["candidate"], row["prior"]) for row in rows} == {
        ("rehearsed", "3", "2")
    }
    assert {row["scorer"] for row in rows if row["money"] > 0} == {"polite"} and not any(row["asked"] for row in rows)
    assert "not judged, 20 pairs: the day's budget is spent" in done["ended"]
    again = rehearsed(recorded)
    assert (
        "not judged, 120 pairs" in again["ended"]
        and len(delta.read(f"{recorded.folder}/data/judged").to_pylist()) == 100
    )


def test_the_release_check_has_the_rehearsal_and_sends_nothing_by_itself(recorded: World) -> None:
    """With release.rehearse it rehearses what was not; without it says what was found, or that nothing was."""

    def row() -> Any:
        return next(row for row in recorded.json("release", "check", "staging")["rows"] if row["name"] == "rehearsed")

    release = recorded.document["endpoints"]["shop"]["release"]
    release["rehearse"] = False
    recorded.save()
    assert (row()["passed"], row()["observed"]) == (True, "not run (release.rehearse is false)")
    release["rehearse"] = True
    recorded.save()
    assert row()["passed"] and "beside version 2 of shop: no worse in 60 requests" in row()["observed"]
    recorded.state.faults["staging", "3"] = local.Fault(error_share=0.5)
    recorded.run("rehearse", "shop", "3", "--on", "staging", "--requests", "60", "--per-second", "100")
    recorded.state.faults.clear()  # else the drill waits for a recovery until its time is over
    release["rehearse"] = False
    recorded.save()
    found = row()
    assert not found["passed"] and found["observed"].startswith("worse on ") and found["fix"], found


def test_fields_of_answers() -> None:
    body = {"choices": [{"message": {"content": "a", "refusal": None}}], "usage": {"total_tokens": 3}}
    assert set(fields(body)) == {"choices", "choices.message", "choices.message.content", "usage", "usage.total_tokens"}
    assert set(fields("text")) == set(fields([])) == set()
