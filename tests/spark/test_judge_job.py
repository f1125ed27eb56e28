"""What the judge is told beside the windows, end to end on Delta: scores, planned splits, earlier rollbacks."""

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from lastgood import tables
from lastgood.jobs.conform import conform
from lastgood.jobs.judge import run_judge
from lastgood.jobs.windows import windows
from lastgood.judge import History, State, Verdict
from lastgood.record import telemetry
from lastgood.settings import EndpointSettings, Policy, load
from lastgood.tables import Store, delta
from lastgood.tables.runs import Context
from lastgood.workspace import Endpoint, ServedEntity, deployments

pytestmark = pytest.mark.xdist_group("one run of the judge")  # its module's fixture is made once

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
END = START + timedelta(minutes=31)
FAILING = {"split": 0.3, "crooked": 0.3, "again": 0.3, "gone": 0.3, "half": 0.3, "sampled": 0.3}
SCORED = {"thumbs": 0.4, "stars": 0.4, "alike": 0.9}


def rollout(endpoint: str, errors: float, seed: int) -> list[dict[str, Any]]:
    """Ten minutes of version 1, then twenty of versions 1 and 2 side by side; version 2 fails with `errors`."""
    r = random.Random(seed)
    rows = []
    for i in range(3000):
        second = i * 1800 / 3000
        version = "2" if second >= 600 and r.random() < 0.5 else "1"
        status = 500 if r.random() < (errors if version == "2" else 0.02) else 200
        one = {"endpoint": endpoint, "request_id": f"r{i}", "trace_id": f"{endpoint}-{i}", "model_version": version}
        one |= {"requested_at": START + timedelta(seconds=second), "latency_ms": r.lognormvariate(4, 0.4)}
        one |= {"latency_scope": "client", "source": "otlp", "received_at": END, "weight": 1.0, "status_code": status}
        rows.append(one | {"requester": f"u{r.randrange(40)}", "tokens_in": 20, "tokens_out": r.randrange(20, 60)})
    return rows


def three() -> list[dict[str, Any]]:
    """Version 1 before, then 1, 2 and 3 side by side, of which 3 fails; and rows of a version that nobody deployed."""
    rows, r = rollout("three", 0.02, 77), random.Random(78)
    for one in rows:
        if one["model_version"] == "2" and r.random() < 0.5:
            one["model_version"] = "3"
            one["status_code"] = 500 if r.random() < 0.4 else one["status_code"]
    stray = [rows[-1] | {"request_id": f"s{i}", "trace_id": f"s{i}", "model_version": "unheard of"} for i in range(3)]
    return rows + stray


def opinions(rows: list[dict[str, Any]], liked: float, seed: int) -> list[dict[str, Any]]:
    """What six in ten requesters say half a minute later, some twice, some by the trace: of version 2 `liked` are glad, of 1 nine in ten."""
    r = random.Random(seed)
    found = []
    for one in rows:
        if r.random() > 0.6:
            continue
        glad = r.random() < (liked if one["model_version"] == "2" else 0.9)
        at = one["requested_at"] + timedelta(seconds=30)
        stars = one["endpoint"] == "stars"
        said = {"name": one["endpoint"], "value": float(1 + 4 * glad if stars else glad), "source": "feedback"}
        said |= {"at": at, "received_at": at}
        by_trace = r.random() < 0.3
        name = (
            {"trace_id": one["trace_id"]}
            if by_trace
            else {"request_id": one["request_id"], "endpoint": one["endpoint"]}
        )
        found += [said | name] * (2 if r.random() < 0.1 else 1)
    return found


def served(name: str, traffic: Mapping[str, int], config_version: int) -> Endpoint:
    entities = tuple(ServedEntity(f"{name}-{v}", f"prod.ml.{name}", v) for v in traffic)
    return Endpoint(name, config_version, entities, {f"{name}-{v}": share for v, share in traffic.items()})


@pytest.fixture(scope="module")
def verdicts(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """One run of the jobs over all cases: a case is an endpoint."""
    store = Store(str(tmp_path_factory.mktemp("judge") / "data"))
    store.ensure(spark)
    stars = EndpointSettings(policy=Policy(score_ranges={"stars": (1, 5)}))
    ctx = Context(spark, store, load(storage=store.location, endpoints={"stars": stars}), lambda: END)
    rows, said = [], []
    for seed, (name, errors) in enumerate((FAILING | dict.fromkeys(SCORED, 0.02)).items()):
        mine = rollout(name, errors, seed)
        rows += mine
        said += opinions(mine, SCORED[name], seed) if name in SCORED else []
    rows += three()
    delta.append(store.path(tables.INBOX), pa.Table.from_pylist(rows, telemetry.arrow_schema(telemetry.INBOX)))
    delta.append(store.path(tables.SCORES), pa.Table.from_pylist(said, telemetry.arrow_schema(tables.SCORES.fields)))
    first = [served("split", {"1": 100}, 1), served("crooked", {"1": 100}, 1), served("three", {"1": 100}, 1)]
    then = [
        served("split", {"1": 50, "2": 50}, 2), served("crooked", {"1": 90, "2": 10}, 2),
        served("three", {"1": 50, "2": 25, "3": 25}, 2),
    ]  # fmt: skip
    assert [
        deployments.record(store, found, START + timedelta(minutes=m)) for m, found in ((0, first), (11, then))
    ] == [3, 3]
    assert deployments.record(store, then, END) == 0
    counted = [
        {"endpoint": name, "model_version": version, "window_start": START + timedelta(minutes=m), "seen": 30, "expected": n, "expected_from": how}
        for name, version, n, how in (("half", "2", 100.0, "usage"), ("half", "1", 30.0, "usage"), ("sampled", "2", 300.0, "sampling"))
        for m in range(10, 30)
    ]  # fmt: skip
    counted += [
        {
            "endpoint": "gone",
            "model_version": "1",
            "window_start": START + timedelta(minutes=m),
            "seen": 5,
            "endpoint_requests": 80.0,
        }
        for m in range(10, 30)
    ]
    delta.append(
        store.path(tables.COMPLETENESS),
        pa.Table.from_pylist(counted, telemetry.arrow_schema(tables.COMPLETENESS.fields)),
    )
    scaled = [
        {
            "endpoint": "split",
            "minute": START + timedelta(minutes=m),
            "requests": 60.0,
            "provisioned": 4.0 if m < 15 else 8.0,
        }
        for m in range(12, 18)
    ]
    minutes = telemetry.arrow_schema(tables.ENDPOINT_MINUTES.fields)
    delta.append(store.path(tables.ENDPOINT_MINUTES), pa.Table.from_pylist(scaled, minutes))
    conform(ctx)
    windows(ctx)
    history = {"again": History({"2": [START + timedelta(minutes=2)]}), "gone": History({"2": [END]})}
    found = run_judge(ctx, history)
    assert len({(one.endpoint, one.candidate) for one in found}) == len(found)
    return {one.endpoint if one.endpoint != "three" else f"three/{one.candidate}": one for one in found}


@pytest.mark.parametrize("name", ["thumbs", "stars"])
def test_labels_that_arrive_later_are_joined_to_their_requests_and_roll_a_worse_version_back(
    name: str, verdicts: dict[str, Verdict]
) -> None:
    said = verdicts[name]
    assert said.state is State.ROLL_BACK, said.reason
    assert re.match(rf"version 2 scores 0\.[34]\d on {name} against 0\.[89]\d of 1, since", said.reason), said.reason
    stream = said.figures["trail"]["streams"][f"scores {name}"]
    seed = [*FAILING, *SCORED].index(name)
    mine = rollout(name, 0.02, seed)
    new = {one["request_id"] for one in mine if one["model_version"] == "2"}
    told = {
        one.get("request_id") or "r" + one["trace_id"].rsplit("-", 1)[1] for one in opinions(mine, SCORED[name], seed)
    }
    assert stream["new"][0] == len(new & told), "each request's opinion counts once"


def test_equal_opinions_accuse_nobody(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["alike"].state is not State.ROLL_BACK
    assert verdicts["alike"].e_value < 20


def test_the_split_of_the_configuration_in_force_is_what_the_seen_split_is_held_against(
    verdicts: dict[str, Verdict],
) -> None:
    assert verdicts["split"].state is State.ROLL_BACK, verdicts["split"].vetoes
    assert verdicts["crooked"].state is State.PAGE
    assert "not split as planned" in verdicts["crooked"].vetoes[0]
    assert "was planned 10% of the traffic and got" in next(
        one.sentence for one in verdicts["crooked"].findings if one.metric == "split"
    )


def test_half_the_requests_of_a_version_are_no_evidence_and_a_uniform_sample_is(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["half"].state is State.INCONCLUSIVE
    assert "only 30% of the expected telemetry" in verdicts["half"].reason
    assert verdicts["sampled"].state is State.ROLL_BACK, verdicts["sampled"].vetoes


def test_a_version_that_was_rolled_back_is_judged_anew_when_it_is_tried_again(verdicts: dict[str, Verdict]) -> None:
    again, first = verdicts["again"], verdicts["split"]
    assert again.candidate == "2"
    assert again.figures["trail"]["attempt"] == 2
    assert again.figures["trail"]["threshold"] > 5 * first.figures["trail"]["threshold"]
    assert again.since is not None
    assert again.since >= START + timedelta(minutes=11)
    assert (verdicts["gone"].candidate, verdicts["gone"].prior) == ("1", None)


def test_every_version_with_traffic_is_judged_against_the_champion_and_a_stray_row_is_no_version(
    verdicts: dict[str, Verdict],
) -> None:
    found = {
        name: (one.prior, one.state is State.ROLL_BACK) for name, one in verdicts.items() if name.startswith("three")
    }
    assert found == {"three/2": ("1", False), "three/3": ("1", True)}


def test_requests_that_the_endpoint_counted_and_nobody_saw_are_paged(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["gone"].state is State.PAGE
    assert "the endpoint counted 800 requests lately and 50 were seen" in verdicts["gone"].reason


def test_windows_that_were_left_out_are_counted(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["split"].figures["trail"]["left_out"]["warming up"] >= 4, (
        "two minutes from the start, two while replicas were added"
    )


def test_where_nothing_was_served_nobody_is_judged(spark: Any, store: Store) -> None:
    store.ensure(spark)
    assert run_judge(Context(spark, store, load(storage=store.location), lambda: END)) == []
