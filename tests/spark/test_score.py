"""The job `score` end to end on Delta: pairs, a model that judges over HTTP, people's labels, and what the judge makes of them."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.errors import ConfigError
from lastgood.jobs.conform import conform
from lastgood.jobs.deployed import all_pairs
from lastgood.jobs.evidence import PAIRED
from lastgood.jobs.evidence import judged as evidence_of
from lastgood.jobs.fake_model import GOOD, app
from lastgood.jobs.judge import run_judge
from lastgood.jobs.score import score
from lastgood.jobs.windows import windows
from lastgood.judge import State
from lastgood.judge.corrected import settled
from lastgood.record import telemetry
from lastgood.settings import EndpointSettings, Policy, Scorer, Scoring, load
from lastgood.tables import Store, delta, judging
from lastgood.tables.runs import Context, Run

pytestmark = pytest.mark.xdist_group("scores")

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
END = START + timedelta(minutes=31)
GOOD_SHARE = {"worse": 0.4, "alike": 0.8}
"""Endpoint -> share of good answers of version 2; of version 1 they are 80 %."""
PAIRS = 250


def rows(endpoint: str, seed: int) -> list[dict[str, Any]]:
    """Ten minutes of version 1, then twenty of both; half the questions are asked of both."""
    r = random.Random(seed)
    made = []
    for i in range(1500):
        second = i * 1800 / 1500
        version = "2" if second >= 600 and r.random() < 0.5 else "1"
        good = r.random() < (GOOD_SHARE[endpoint] if version == "2" else 0.8)
        made.append({
            "endpoint": endpoint, "request_id": f"{endpoint}-{i}", "trace_id": f"{endpoint}-{i}", "model_version": version, "status_code": 200,
            "requested_at": START + timedelta(seconds=second), "latency_ms": r.lognormvariate(4, 0.4), "latency_scope": "client", "source": "otlp",
            "received_at": END, "weight": 1.0, "requester": f"u{r.randrange(40)}", "tokens_in": 20, "tokens_out": 30,
            "input": f"question {r.randrange(400)}" if r.random() < 0.5 else f"{'long ' * 30}{i}", "output": f"{GOOD if good else 'no'} answer {i}",
            "conversation_id": f"talk {i // 3}",
        })  # fmt: skip
    return made


@pytest.fixture(scope="module")
def url() -> Iterator[tuple[str, Any]]:
    """A model that is harsh on bad answers never, on good ones one time in five, and gives one in fifty no score."""
    fake = app(wrong_of_good=0.2, wrong_of_bad=0.0, broken=0.02)
    with serving(fake) as base:
        yield f"{base}/v1", fake.state.calls


@pytest.fixture(scope="module")
def ctx(spark: Any, tmp_path_factory: pytest.TempPathFactory, url: tuple[str, Any]) -> Context:
    store = Store(str(tmp_path_factory.mktemp("score") / "data"))
    store.ensure(spark)
    model = Scorer(name="helpful", model="judge-1", base_url=url[0], price_in=1.0, price_out=2.0)
    exact = Scorer(name="short", kind="function", call="lastgood.jobs.fake_model:short", exact=True)
    own = EndpointSettings(
        scoring=Scoring(scorers=(model, exact), pairs=PAIRS, label_share=0.5, calls_per_day=2 * 2 * PAIRS + 100)
    )
    settings = load(storage=store.location, endpoints=dict.fromkeys(GOOD_SHARE, own))
    made = Context(spark, store, settings, lambda: END)
    inbox = [row for seed, name in enumerate(GOOD_SHARE) for row in rows(name, seed)]
    delta.append(store.path(tables.INBOX), pa.Table.from_pylist(inbox, telemetry.arrow_schema(telemetry.INBOX)))
    conform(made)
    windows(made)
    return made


@pytest.fixture(scope="module")
def first(ctx: Context) -> Run:
    run = score(ctx)
    assert run is not None
    return run


def judged(ctx: Context) -> list[dict[str, Any]]:
    return delta.read(ctx.store.path(tables.JUDGED)).to_pylist()  # type: ignore[no-any-return]


def later(ctx: Context, **passed: float) -> Context:
    return Context(ctx.spark, ctx.store, ctx.settings, lambda: END + timedelta(**passed))


def test_pairs_are_judged_blindly_once_and_what_fails_is_counted(
    ctx: Context, first: Run, url: tuple[str, Any]
) -> None:
    made = [row for row in judged(ctx) if row["scorer"] == "helpful"]
    assert len(made) == 2 * PAIRS
    for endpoint in GOOD_SHARE:
        used = [request for row in made if row["endpoint"] == endpoint for request in row["request_ids"]]
        assert len(used) == len(set(used)), "a request is judged once"
    assert {row["alike"] for row in made} == {"same", "similar"}
    broken = [row for row in made if any(row["errors"])]
    assert 0 < len(broken) == first.quarantined
    for row in broken:
        assert all(value == 0.5 for value, error in zip(row["scores"], row["errors"], strict=True) if error)
    assert all(row["money"] == pytest.approx((row["tokens_in"] + 2 * row["tokens_out"]) / 1e6) for row in made)
    assert 0.4 < sum(row["asked"] for row in made) / len(made) < 0.6
    shown = [call["messages"][-1]["content"] for call in url[1]]
    assert not any("version" in text or "model_version" in text for text in shown)
    assert any("Earlier request" in text for text in shown), "the turns before"
    exact = [row for row in judged(ctx) if row["scorer"] == "short"]
    assert exact and not any(row["asked"] for row in exact)


def test_an_exact_scorers_word_is_a_score_like_any_other(ctx: Context, first: Run) -> None:
    scores = delta.read(ctx.store.path(tables.SCORES)).to_pylist()
    assert scores and {row["name"] for row in scores} == {"short"}
    assert all(row["source"].startswith("scorer function lastgood.jobs.fake_model:short ") for row in scores)


def test_the_days_budget_is_kept_and_said(ctx: Context, first: Run) -> None:
    """1,100 calls: 500 of the model, 600 that are left for the function, which has more pairs than that."""
    for endpoint in GOOD_SHARE:
        calls = 2 * sum(row["endpoint"] == endpoint for row in judged(ctx))
        assert calls <= 2 * 2 * PAIRS + 100
    again = score(later(ctx, minutes=5))
    assert again is not None and again.note and "the day's budget is spent" in again.note
    assert again.rows_in > again.rows_out


def test_labels_correct_the_model_and_a_worse_version_is_rolled_back(ctx: Context, first: Run) -> None:
    """The model is harsh on good answers, so it thinks version 1 of `worse` less good than it is; people say what is true."""
    outputs = {row["request_id"]: row["output"] for row in delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()}
    told = [
        {"endpoint": row["endpoint"], "request_id": request, "name": "helpful", "value": float(GOOD in outputs[request]), "source": "ann",
         "at": END, "received_at": END + timedelta(seconds=20)}
        for row in judged(ctx) if row["asked"] for request in row["request_ids"]
    ]  # fmt: skip
    before = {verdict.endpoint: verdict for verdict in run_judge(later(ctx, seconds=30))}
    waiting = [
        verdict.figures["trail"]["streams"].get("scores helpful (judged pairs)", {"new": [0]})
        for verdict in before.values()
    ]
    assert all(stream["new"][0] < 20 for stream in waiting), (
        "a pair waits for those before it, and these for their labels"
    )
    delta.append(
        ctx.store.path(tables.SCORES), pa.Table.from_pylist(told, telemetry.arrow_schema(tables.SCORES.fields))
    )
    after = {verdict.endpoint: verdict for verdict in run_judge(later(ctx, seconds=60))}
    assert after["worse"].state is State.ROLL_BACK, after["worse"].reason
    assert after["alike"].state is not State.ROLL_BACK, after["alike"].reason
    stream = after["worse"].figures["trail"]["streams"]["scores helpful (judged pairs)"]
    assert stream["new"][0] == stream["prior"][0] == PAIRS
    assert stream["new"][1] / PAIRS == pytest.approx(0.4, abs=0.12) and stream["prior"][1] / PAIRS == pytest.approx(
        0.8, abs=0.12
    )


def test_the_next_day_a_few_pairs_are_judged_again(ctx: Context, first: Run) -> None:
    score(later(ctx, days=1, minutes=1))
    again = [row for row in judged(ctx) if row["again"] and row["scorer"] == "helpful"]
    assert len(again) == 2 * 2 and {row["pair_id"] for row in again} <= {
        row["pair_id"] for row in judged(ctx) if not row["again"]
    }
    assert not any(row["asked"] for row in again)


def test_a_dry_run_asks_nobody(ctx: Context, first: Run, url: tuple[str, Any]) -> None:
    calls, rows_before = len(url[1]), len(judged(ctx))
    run = score(Context(ctx.spark, ctx.store, ctx.settings, lambda: END + timedelta(days=2), dry_run=True))
    assert (len(url[1]), len(judged(ctx))) == (calls, rows_before)
    assert run is None or run.rows_out == 0


def test_a_scorer_that_cannot_be_had_is_a_clear_error(ctx: Context, tmp_path: Path) -> None:
    scorer = Scorer(name="none", kind="function", call="lastgood.no_such:thing")
    settings = load(
        storage=ctx.store.location, endpoints={"worse": EndpointSettings(scoring=Scoring(scorers=(scorer,)))}
    )
    with pytest.raises(ConfigError, match=r"scorer none: call lastgood\.no_such:thing"):
        score(Context(ctx.spark, ctx.store, settings, ctx.clock))


def test_a_scorer_that_is_down_is_not_asked_about_everything_and_what_it_missed_waits(ctx: Context, first: Run) -> None:
    """The first answers are failures, and counted; the others are judged when it is there again."""
    for call, pairs in (("math:sqrt", 8), ("lastgood.jobs.fake_model:short", 20)):
        down = Scorer(name="down", kind="function", call=call)
        own = EndpointSettings(scoring=Scoring(scorers=(down,), pairs=20))
        settings = load(storage=ctx.store.location, endpoints={"alike": own})
        run = score(Context(ctx.spark, ctx.store, settings, lambda: END + timedelta(minutes=40)))
        assert run is not None and (run.rows_in, run.rows_out) == (20, pairs), call
        assert (run.note or "").startswith("not judged, 12 pairs: scorer down fails (TypeError") is (pairs == 8), (
            run.note
        )


def test_one_rule_reads_labels_for_the_judge_and_for_the_page(ctx: Context, first: Run) -> None:
    """By request or trace, with an endpoint or none, by a source or none, of its own name or a thumb; one outside of its range is no label, and counted."""
    model = Scorer(name="helpful", model="judge-1", labelled_by=("thumbs",))
    own = EndpointSettings(
        scoring=Scoring(scorers=(model,)), policy=Policy(score_ranges={"thumbs": (-1, 1), "helpful": (0, 1)})
    )
    settings = load(storage=ctx.store.location, endpoints={"alike": own})
    at = END + timedelta(seconds=1)
    rows = [
        row
        for row in judged(ctx)
        if (row["endpoint"], row["scorer"]) == ("alike", "helpful") and row["asked"] and not row["again"]
    ]
    (a, b), (c, d), (e, f) = (row["request_ids"] for row in rows[:3])
    base = {"endpoint": "alike", "name": "helpful", "source": "ann", "at": at, "received_at": at}
    told = [
        {"request_id": a, "value": 0.9}, {"request_id": a, "value": 0.1, "received_at": END + timedelta(seconds=2)},
        {"endpoint": None, "request_id": b, "value": 1.0 + 1e-12},
        {"request_id": None, "trace_id": c, "value": 0.25, "source": None}, {"request_id": d, "name": "thumbs", "value": -1.0, "source": None},
        {"request_id": e, "value": 7.0}, {"request_id": e, "value": float("nan")}, {"request_id": f, "name": "thumbs", "value": 3.0},
    ]  # fmt: skip
    delta.append(
        ctx.store.path(tables.SCORES),
        pa.Table.from_pylist([base | row for row in told], telemetry.arrow_schema(tables.SCORES.fields)),
    )
    known = Context(ctx.spark, ctx.store, settings, lambda: END + timedelta(minutes=50))
    chosen = {key: pair for key, pair in all_pairs(known)[0].items() if key[0] == "alike"}
    late = END + timedelta(days=9)
    (given,) = [
        found[f"helpful ({PAIRED})"]
        for found in evidence_of(known, chosen, dict.fromkeys(chosen, START), late).values()
    ]
    page = judging.read(ctx.store, settings, late)
    of_page = settled(
        judging.judgements(
            [row for row in page.rows if (row["endpoint"], row["scorer"]) == ("alike", "helpful") and not row["again"]],
            page.told,
        ),
        late.timestamp(),
    )
    assert {request: page.told["alike", request, "helpful"][0] for request in (a, b, c, d)} == {
        a: 0.9,
        b: 1.0,
        c: 0.25,
        d: 0.0,
    }
    nothing = (0.0, 0.0)  # other tests may have labelled them later
    assert all(page.told.get(("alike", request, "helpful"), nothing)[1] != at.timestamp() for request in (e, f))
    assert page.outside["alike", "helpful"] == 3
    import numpy as np

    np.testing.assert_array_equal(given.labels, of_page.labels)
