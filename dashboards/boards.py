"""Exported metrics and a policy -> what each board plots (pure): title, meaning, queries, unit, limit. `grafana` makes boards of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lastgood.judge.days import FELL_DAYS
from lastgood.record.exported import VERDICTS
from lastgood.record.verdict import State
from lastgood.settings import Policy

RATE = "$__rate_interval"
MINE = 'endpoint=~"$endpoint"'
VERSIONS = f'{MINE},model_version=~"$version"'


@dataclass(frozen=True)
class Plot:
    """One panel: queries as (PromQL, legend), Grafana's unit, what it means. `limit`: a line from the policy; `kind`: lines, number or table (a column for
    each query, its legend the heading; a row for each endpoint). `words`: value -> (what it says, its colour); `empty`: what stands where nothing is."""

    title: str
    doc: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    limit: float | None = None
    kind: str = "lines"
    width: int = 12
    height: int = 8
    words: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    empty: str = "no data in this time"


def _rate(name: str, match: str, by: str = "endpoint, model_version") -> str:
    return f"sum by ({by}) (rate({name}{{{match}}}[{RATE}]))"


def _ratio(part: str, whole: str, match: str, by: str = "endpoint, model_version") -> str:
    return f"{_rate(part, match, by)} / {_rate(whole, match, by)}"


def _quantile(q: float, name: str, match: str) -> str:
    return f"histogram_quantile({q}, sum by (le, endpoint, model_version) (rate({name}_bucket{{{match}}}[{RATE}])))"


WHO = "{{endpoint}} {{model_version}}"
STATES: Mapping[float, tuple[str, str]] = {
    float(VERDICTS[state]): (str(state), colour)
    for state, colour in (
        (State.HEALTHY, "green"), (State.INCONCLUSIVE, "gray"), (State.WATCH, "yellow"), (State.PAGE, "orange"), (State.ROLL_BACK, "red"),
    )
}  # fmt: skip
ON_OFF: Mapping[float, tuple[str, str]] = {0.0: ("off", "green"), 1.0: ("on", "red")}
NOT_JUDGED = "no endpoint has been judged yet"


def fleet(p: Policy) -> list[Plot]:
    """All endpoints."""
    fast = "1h"
    errors = f"lastgood:error_ratio:rate{fast} / {p.error_slo:g}"
    cost = " + ".join(
        f"sum by (endpoint) (increase({name}[1h]))"
        for name in ("lastgood_tokens_in_total", "lastgood_tokens_out_total")
    )
    return [
        Plot("Verdict", "Newest verdict on the newest version: 0 Healthy, 1 Inconclusive, 2 Watch, 3 Page, 4 RollBack.",
             [("lastgood_verdict", WHO)], kind="number", width=16, words=STATES, empty=NOT_JUDGED),
        Plot("Kill switch", "1 while all automatic action is stopped.", [("max(lastgood_kill_switch)", "kill switch")], kind="number", width=8,
             words=ON_OFF),
        Plot("Requests, p95, errors, cost", "Every endpoint in the last hour; completeness of two hours, cost of seven days.", [
            ("max by (endpoint) (lastgood_verdict)", "Verdict"),
            ("sum by (endpoint) (rate(lastgood_requests_total[1h]))", "Requests/s"),
            ("histogram_quantile(0.95, sum by (le, endpoint) (rate(lastgood_request_duration_seconds_bucket[1h])))", "p95"),
            ("sum by (endpoint) (rate(lastgood_errors_total[1h])) / sum by (endpoint) (rate(lastgood_requests_total[1h]))", "Errors"),
            ("lastgood_completeness", "Completeness"), ("sum by (endpoint) (lastgood_cost_7_days)", "Cost, 7 days"),
        ], kind="table", width=24, height=10, words=STATES, empty=NOT_JUDGED),
        Plot("Error budget burn, 1 h", "Error rate over one hour / objective: above 1 the budget is being overspent.",
             [(errors, "{{endpoint}}")], limit=1),
        Plot("Requests per second", "Requests served, weighted by 1 / sampling fraction.",
             [(_rate("lastgood_requests_total", 'endpoint!=""', "endpoint"), "{{endpoint}}")], "reqps"),
        Plot("Tokens in the last hour", "Prompt and generated tokens: what pay-per-token endpoints are billed by.", [(cost, "{{endpoint}}")]),
        Plot("Open incidents", "Incidents that nobody has resolved.", [("sum by (endpoint) (lastgood_incidents_open)", "{{endpoint}}")], limit=1),
        Plot("Completeness", "Requests seen / requests there should be, of the newest two hours.", [("lastgood_completeness", "{{endpoint}}")],
             "percentunit", empty="nothing independent says how many requests there were"),
        Plot("Cost of seven days", "In the currency of the prices, by endpoint. Endpoints without a price are not there.",
             [("sum by (endpoint, currency) (lastgood_cost_7_days)", "{{endpoint}} {{currency}}")], empty="no endpoint has a price: see conf/prices.yaml"),
        Plot("Age of the newest telemetry", "Above the policy's limit nobody is judged.",
             [("time() - max by (endpoint) (lastgood_newest_window_timestamp_seconds)", "{{endpoint}}")], "s", p.max_evidence_age_s),
    ]  # fmt: skip


def endpoint(p: Policy) -> list[Plot]:
    """One endpoint, version beside version."""
    duration, age = "lastgood_request_duration_seconds", "lastgood_feature_age_seconds"
    return [
        Plot("Latency p50", "Median latency per version.", [(_quantile(0.5, duration, VERSIONS), WHO)], "s"),
        Plot("Latency p95", "95th percentile of latency per version.", [(_quantile(0.95, duration, VERSIONS), WHO)], "s", p.latency_target_s),
        Plot("Latency p99", "99th percentile of latency per version.", [(_quantile(0.99, duration, VERSIONS), WHO)], "s"),
        Plot("Time to first token p95", "95th percentile of the time to the first token.",
             [(_quantile(0.95, "lastgood_first_token_seconds", VERSIONS), WHO)], "s"),
        Plot("Error rate", "Requests with an error code / requests.",
             [(_ratio("lastgood_errors_total", "lastgood_requests_total", VERSIONS), WHO)], "percentunit", p.error_slo),
        Plot("Errors by code", "Failed requests per second by code.",
             [(_rate("lastgood_errors_total", VERSIONS, "model_version, error_code"), "{{model_version}} {{error_code}}")], "reqps"),
        Plot("Throughput", "Requests per second per version: where the traffic goes.", [(_rate("lastgood_requests_total", VERSIONS), WHO)], "reqps"),
        Plot("Tokens per request", "Prompt and generated tokens / requests that say them.", [
            (_ratio("lastgood_tokens_in_total", "lastgood_requests_with_tokens_in_total", VERSIONS), f"{WHO} in"),
            (_ratio("lastgood_tokens_out_total", "lastgood_requests_with_tokens_out_total", VERSIONS), f"{WHO} out"),
        ]),
        Plot("Feature age p95", "Age of the oldest feature used, at request time.", [(_quantile(0.95, age, VERSIONS), WHO)], "s",
             p.feature_age_limit_ms / 1000),
        Plot("Age of feature sources", "Since the newest data in each feature table, online store and index.",
             [(f"time() - max by (endpoint, kind, source) (lastgood_feature_source_timestamp_seconds{{{MINE}}})", "{{kind}} {{source}}")], "s",
             p.feature_age_limit_ms / 1000),
        Plot("Mean latency", "Sum of latencies / requests: what histograms cannot hide.", [
            (f"{_rate(f'{duration}_sum', VERSIONS)} / {_rate(f'{duration}_count', VERSIONS)}", WHO)], "s"),
        Plot("Tool calls that fail", "Failed calls / calls, of the agent's most called tools and the others.",
             [(_ratio("lastgood_tool_errors_total", "lastgood_tool_calls_total", VERSIONS, "model_version, tool"), "{{model_version}} {{tool}}")],
             "percentunit"),
        Plot("Runs that loop or hit a step limit", "Runs of agents that make one call again and again, or are stopped / runs.", [
            (_ratio("lastgood_agent_runs_looped_total", "lastgood_agent_runs_total", VERSIONS), f"{WHO} loops"),
            (_ratio("lastgood_agent_runs_step_limited_total", "lastgood_agent_runs_total", VERSIONS), f"{WHO} step limit")], "percentunit"),
        Plot("Evidence against the newest version", "A healthy version shows 100 at most once in 100 times.",
             [(f"lastgood_verdict_e_value{{{MINE}}}", WHO)], limit=p.rollback_e),
    ]  # fmt: skip


def quality(p: Policy) -> list[Plot]:
    """Drift and output quality."""
    return [
        Plot("Bad answers", "Answers that are empty, refused, repetitive, cut, leaking or echoing / answers looked at.",
             [(_ratio("lastgood_bad_answers_total", "lastgood_answers_total", VERSIONS), WHO)], "percentunit", p.quality_slo),
        Plot("Answers looked at", "Successful answers whose text was captured, per second.", [(_rate("lastgood_answers_total", VERSIONS), WHO)], "reqps"),
        Plot("Labelled", "Answers with a label / answers looked at. Labels come late: the newest hours rise.",
             [(_ratio("lastgood_answers_labelled_total", "lastgood_answers_total", VERSIONS), WHO)], "percentunit", empty="no labels have come"),
        Plot("Correct, of labelled answers", "Correct / answers of which it is known.",
             [(_ratio("lastgood_outcomes_correct_total", "lastgood_outcomes_total", VERSIONS), WHO)], "percentunit", empty="no labels have come"),
        Plot("Estimated performance", "Of the newest whole day, where labels are not there yet; with the ends of its 95% interval.", [
            (f"lastgood_estimated_performance{{{VERSIONS}}}", f"{WHO} {{{{metric}}}}"),
            (f"lastgood_estimated_performance_low{{{VERSIONS}}}", f"{WHO} {{{{metric}}}} low"),
            (f"lastgood_estimated_performance_high{{{VERSIONS}}}", f"{WHO} {{{{metric}}}} high"),
            (f"lastgood_estimated_performance_reference{{{VERSIONS}}}", f"{WHO} {{{{metric}}}} reference"),
        ], empty="no endpoint has `performance` in its settings, or nothing can be known"),
        Plot("Days that it fell, or cannot be known", "Newest whole days in a row that are wholly worse than the reference, or cannot be known.", [
            (f"lastgood_estimated_performance_fell_days{{{VERSIONS}}}", f"{WHO} {{{{metric}}}} fell"),
            (f"lastgood_estimated_performance_unknown_days{{{VERSIONS}}}", f"{WHO} cannot be known"),
        ], limit=FELL_DAYS, empty="no endpoint has `performance` in its settings"),
        Plot("Distance from the reference", "Jensen-Shannon distance of each column to its reference.",
             [(f'lastgood_drift_distance{{{VERSIONS},against="reference"}}', "{{column}} {{model_version}}")], limit=p.drift_limit, width=24, height=10),
        Plot("Distance from the prior version", "Jensen-Shannon distance of each column to the prior version over the same minutes.",
             [(f'lastgood_drift_distance{{{VERSIONS},against="prior"}}', "{{column}}")], limit=p.drift_limit),
        Plot("Columns that drifted", "Columns whose distance is certainly above the limit.",
             [(f"sum by (endpoint, model_version, against) (lastgood_drifted{{{VERSIONS}}})", f"{WHO} {{{{against}}}}")], limit=1),
        Plot("Scorers that fail", "Pairs of which a scorer could not judge an answer / pairs that it judged, 30 days.",
             [(f"2 * lastgood_scorer_failed{{{MINE}}} / lastgood_scorer_answers{{{MINE}}}", "{{endpoint}} {{scorer}}")], "percentunit", 0.1,
             empty="no scorer judges answers"),
        Plot("Scorers beside people", "Share of the labelled answers of which people think as the scorer does.",
             [(f"lastgood_scorer_agreement{{{MINE}}}", "{{endpoint}} {{scorer}}")], "percentunit", empty="no labels have come"),
        Plot("Scorers asked again", "Mean distance between a scorer's scores and what it said of the same answers before.",
             [(f"lastgood_scorer_moved{{{MINE}}}", "{{endpoint}} {{scorer}}")], limit=0.2, empty="no scorer judges answers"),
        Plot("Pairs that nobody labelled in time", "They count for the new version.",
             [(f"lastgood_scorer_unlabelled{{{MINE}}}", "{{endpoint}} {{scorer}}")], empty="no scorer judges answers"),
    ]  # fmt: skip


def rollbacks(p: Policy) -> list[Plot]:
    """What was rolled back, how fast, how well."""
    return [
        Plot("Rollbacks of the last 30 days", "By the state they are in.", [("sum by (endpoint, state) (lastgood_rollbacks)", "{{endpoint}} {{state}}")],
             kind="number", width=24, height=6),
        Plot("Time to detect", "Onset of the fault to verdict, of the newest rollback.", [("lastgood_last_detect_seconds", "{{endpoint}}")], "s"),
        Plot("Time to restore", "Verdict to verified recovery, of the newest finished rollback.", [("lastgood_last_restore_seconds", "{{endpoint}}")],
             "s", p.verify_timeout_s),
        Plot("Open incidents", "Incidents that nobody has resolved.", [("lastgood_incidents_open", "{{endpoint}}")], limit=1),
        Plot("Messages waiting", "Messages not yet delivered to PagerDuty and the others.", [("lastgood_messages_waiting", "messages")], limit=1),
    ]  # fmt: skip


def itself(p: Policy) -> list[Plot]:
    """Lastgood's own health."""
    return [
        Plot("Spans per second", "What the receiver acknowledged, stored and ignored.", [
            (f"sum(rate(lastgood_spans_{name}_total[{RATE}]))", name) for name in ("accepted", "stored", "set_aside", "ignored")]),
        Plot("Exports refused in an hour", "By reason; all but token, type, size and invalid are sent again.",
             [("sum by (reason) (increase(lastgood_exports_refused_total[1h]))", "{{reason}}")], limit=1),
        Plot("Spool", "Bytes acknowledged and not yet in Delta.", [("sum(lastgood_spool_bytes)", "spool")], "bytes"),
        Plot("Seconds per commit", "Decoding and Delta commit of the receiver.",
             [(f"sum(rate(lastgood_commit_seconds_total[{RATE}])) / sum(rate(lastgood_commits_total[{RATE}]))", "commit")], "s"),
        Plot("Drain restarts in an hour", "Times the drain process died.", [("sum(increase(lastgood_drain_restarts_total[1h]))", "restarts")], limit=1),
        Plot("Spool errors in an hour", "Times the spool could not be written: senders were told to try again.",
             [("sum(increase(lastgood_spool_errors_total[1h]))", "errors")], limit=1),
        Plot("Task errors in an hour", "Times a task of the service failed in a way that nobody foresaw.",
             [("sum(increase(lastgood_task_errors_total[1h]))", "errors")], limit=1),
        Plot("Time since a job ran", "Since the newest run that had something to do.",
             [("time() - max by (job) (lastgood_job_run_timestamp_seconds)", "{{job}}")], "s", 7200),
        Plot("Duration of job runs", "The newest run of each job.", [("max by (job) (lastgood_job_run_seconds)", "{{job}}")], "s"),
        Plot("Age of the verdict", "Since the newest verdict on each endpoint.",
             [("time() - max by (endpoint) (lastgood_verdict_timestamp_seconds)", "{{endpoint}}")], "s", 7200),
        Plot("Cannot protect", "1 while something that protects the endpoints does not work.",
             [("max by (reason) (lastgood_cannot_protect)", "{{reason}}")], limit=1),
        Plot("Messages refused", "Messages a channel refused; they are kept and tried again.",
             [("max by (channel) (lastgood_messages_refused)", "{{channel}}")], limit=1),
        Plot("Decision faults in an hour", "Decisions and verdicts that failed, by kind of error.",
             [("sum by (kind) (increase(lastgood_decision_faults_total[1h]))", "{{kind}}")], limit=1),
        Plot("Silences and freezes", "In force now.", [("max by (kind) (lastgood_pauses)", "{{kind}}")]),
        Plot("Settings refused", "1 while the settings file is wrong: the policies stay as they were.", [("max(lastgood_settings_refused)", "refused")],
             limit=1),
        Plot("Versions not exported", "Versions left out because the bound on series was reached.", [("sum(lastgood_series_dropped)", "versions")], limit=1),
    ]  # fmt: skip


@dataclass(frozen=True)
class Board:
    uid: str
    title: str
    doc: str
    plots: Callable[[Policy], list[Plot]]
    scoped: bool = False


BOARDS = (
    Board("lastgood-fleet", "Lastgood / Fleet", "All endpoints: verdicts, burn, traffic, tokens, incidents.", fleet),
    Board("lastgood-endpoint", "Lastgood / Endpoint", "One endpoint, version beside version.", endpoint, scoped=True),
    Board(
        "lastgood-quality",
        "Lastgood / Drift and quality",
        "Inputs and outputs that moved, answers that got worse.",
        quality,
        scoped=True,
    ),
    Board("lastgood-rollbacks", "Lastgood / Rollbacks", "History, time to detect, time to restore.", rollbacks),
    Board("lastgood-itself", "Lastgood / Lastgood itself", "Receiver, jobs, verdicts: is the watcher awake?", itself),
)
