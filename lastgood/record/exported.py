"""What Prometheus gets (pure): every exported metric once, by name, type, labels and meaning. Exporter, rules and boards use this list.

Base units, counters in `_total`. `endpoint` and `model_version` are the labels of a version; `state` is a verdict's or a rollback's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lastgood.record.verdict import State

VERSION = ("endpoint", "model_version")
BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
AGE_BUCKETS_S = (60.0, 300.0, 900.0, 3600.0, 6 * 3600.0, 86_400.0)
VERDICTS: Mapping[State, int] = {state: state.severity for state in State}
"""The number a verdict's state is exported as: the worse, the higher."""


@dataclass(frozen=True)
class Exported:
    """One metric. `kind`: counter, gauge or histogram. `board`: why it is on no board, where it is deliberately not."""

    name: str
    kind: str
    doc: str
    labels: tuple[str, ...] = ()
    off_board: str = ""

    @property
    def series(self) -> tuple[str, ...]:
        """The names a query can use."""
        endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[self.kind]
        return tuple(f"{self.name}{ending}" for ending in endings)


CATALOGUE = (
    Exported("lastgood_requests", "counter", "Requests served, weighted by 1 / sampling fraction.", VERSION),
    Exported("lastgood_errors", "counter", "Requests with an error code.", (*VERSION, "error_code")),
    Exported("lastgood_request_duration_seconds", "histogram", "Latency of requests.", VERSION),
    Exported("lastgood_first_token_seconds", "histogram", "Time to first token.", VERSION),
    Exported("lastgood_feature_age_seconds", "histogram", "Age of the oldest feature used, at request time.", VERSION),
    Exported("lastgood_tokens_in", "counter", "Prompt tokens.", VERSION),
    Exported("lastgood_tokens_out", "counter", "Generated tokens.", VERSION),
    Exported("lastgood_requests_with_tokens_in", "counter", "Requests whose prompt tokens are known.", VERSION),
    Exported("lastgood_requests_with_tokens_out", "counter", "Requests whose generated tokens are known.", VERSION),
    Exported("lastgood_answers", "counter", "Successful answers whose text was looked at.", VERSION),
    Exported("lastgood_bad_answers", "counter", "Answers that were empty, refused, repetitive, cut, leaking or echoing.", VERSION),
    Exported("lastgood_answers_labelled", "counter", "Answers that have a label.", VERSION),
    Exported("lastgood_outcomes", "counter", "Labelled answers of which it is known whether they are correct.", VERSION),
    Exported("lastgood_outcomes_correct", "counter", "Of them correct.", VERSION),
    Exported("lastgood_estimated_performance", "gauge", "Metric of a version's newest whole day, estimated where labels are not there yet.",
             (*VERSION, "metric")),
    Exported("lastgood_estimated_performance_low", "gauge", "Lower end of its 95% interval.", (*VERSION, "metric")),
    Exported("lastgood_estimated_performance_high", "gauge", "Upper end.", (*VERSION, "metric")),
    Exported("lastgood_estimated_performance_reference", "gauge", "The metric of the version's labelled reference.", (*VERSION, "metric")),
    Exported("lastgood_estimated_performance_fell_days", "gauge", "Newest whole days in a row whose interval is wholly worse than the reference.",
             (*VERSION, "metric")),
    Exported("lastgood_estimated_performance_unknown_days", "gauge", "Newest whole days in a row after the reference of which nothing can be known.", VERSION),
    Exported("lastgood_completeness", "gauge", "Requests seen / requests there should be, of the newest two hours.", ("endpoint",)),
    Exported("lastgood_cost_7_days", "gauge", "Cost of the last seven days; no series where a part has no price.", (*VERSION, "currency")),
    Exported("lastgood_agent_runs", "counter", "Runs of agents and workflows.", VERSION),
    Exported("lastgood_agent_runs_looped", "counter", "Runs that made one call three times or more with the same arguments.", VERSION),
    Exported("lastgood_agent_runs_step_limited", "counter", "Runs that a limit of steps stopped.", VERSION),
    Exported("lastgood_tool_calls", "counter", "Calls of a tool; of a version's 20 most called tools, and `other`.", (*VERSION, "tool")),
    Exported("lastgood_tool_errors", "counter", "Calls of a tool that failed.", (*VERSION, "tool")),
    Exported("lastgood_verdict", "gauge", "Newest verdict: 0 Healthy, 1 Inconclusive, 2 Watch, 3 Page, 4 RollBack.", VERSION),
    Exported("lastgood_verdict_e_value", "gauge", "Evidence against the newest version (100: 1 healthy version in 100 shows it).", VERSION),
    Exported("lastgood_verdict_timestamp_seconds", "gauge", "When the newest verdict was given, seconds since 1970.", ("endpoint",)),
    Exported("lastgood_drift_distance", "gauge", "Jensen-Shannon distance of a column's newest sample.", (*VERSION, "against", "column")),
    Exported("lastgood_drifted", "gauge", "1 where the distance is certainly above the limit.", (*VERSION, "against", "column")),
    Exported("lastgood_newest_window_timestamp_seconds", "gauge", "Start of the newest window, seconds since 1970.", ("endpoint",)),
    Exported("lastgood_feature_source_timestamp_seconds", "gauge", "Newest data in a source of features, seconds since 1970.",
             ("endpoint", "kind", "source")),
    Exported("lastgood_incidents_open", "gauge", "Open incidents.", ("endpoint",)),
    Exported("lastgood_rollbacks", "gauge", "Rollbacks of the last 30 days by the state they are in.", ("endpoint", "state")),
    Exported("lastgood_last_detect_seconds", "gauge", "Onset of the fault to verdict, of the newest rollback.", ("endpoint",)),
    Exported("lastgood_last_restore_seconds", "gauge", "Verdict to verified recovery, of the newest finished rollback.", ("endpoint",)),
    Exported("lastgood_kill_switch", "gauge", "1 while all automatic action is stopped.",),
    Exported("lastgood_settings_refused", "gauge", "1 while the settings file is wrong and the policies stay as they were.",),
    Exported("lastgood_messages_refused", "gauge", "Messages a channel refused; they are kept and tried again.", ("channel",)),
    Exported("lastgood_cannot_protect", "gauge", "1 while Lastgood cannot protect the endpoints, by reason.", ("reason",)),
    Exported("lastgood_decision_faults", "counter", "Decisions and verdicts that failed, by kind of error.", ("kind",)),
    Exported("lastgood_pauses", "gauge", "Silences and freezes in force.", ("kind",)),
    Exported("lastgood_messages_waiting", "gauge", "Messages not yet delivered.",),
    Exported("lastgood_scorer_answers", "gauge", "Answers that a scorer was asked about in the newest day.", ("endpoint", "scorer")),
    Exported("lastgood_scorer_failed", "gauge", "Pairs of them of which it could not judge an answer.", ("endpoint", "scorer")),
    Exported("lastgood_scorer_agreement", "gauge", "Share of the labelled answers of which people think the same.", ("endpoint", "scorer")),
    Exported("lastgood_scorer_moved", "gauge", "Mean distance between its scores and what it said when it was asked again, in a week.", ("endpoint", "scorer")),
    Exported("lastgood_scorer_unlabelled", "gauge", "Pairs that nobody labelled in time: they count for the new version.", ("endpoint", "scorer")),
    Exported("lastgood_contents_rare", "gauge", "Requests of the last day whose prompt or tools are too rare to be a version (see versions_by).",
             ("endpoint",), "`lastgood changes` and `lastgood status` say it"),
    Exported("lastgood_job_run_timestamp_seconds", "gauge", "End of a job's newest run that had something to do.", ("job",)),
    Exported("lastgood_job_run_seconds", "gauge", "Duration of that run.", ("job",)),
    Exported(
        "lastgood_source_reads_whole", "gauge", "Times a source was read whole because its changes could not be.", ("job", "source"),
        "the source is named by `lastgood status`",
    ),
    Exported(
        "lastgood_source_rows_passed_over", "gauge", "Rows of a source that were changed or deleted after they were taken.", ("job", "source"),
        "the source is named by `lastgood status`",
    ),
    Exported("lastgood_spans_accepted", "counter", "Spans acknowledged by the receiver (on disk).",),
    Exported("lastgood_exports_refused", "counter", "Exports that were not taken, and connections that brought none, by reason.", ("reason",)),
    Exported("lastgood_spans_stored", "counter", "Requests committed to Delta by the receiver.",),
    Exported("lastgood_spans_set_aside", "counter", "Spans put into the quarantine.",),
    Exported("lastgood_spans_ignored", "counter", "Spans that are not requests.",),
    Exported("lastgood_trace_parts_held", "gauge", "Spans that the live judge holds until their trace is whole.", (),
             "for whoever tunes receiver.hold_s"),
    Exported("lastgood_trace_parts_left_out", "counter", "Spans that came too late for the live judge, or were too many; the jobs count them.",
             (), "the jobs count them all the same"),
    Exported("lastgood_spool_bytes", "gauge", "Bytes acknowledged and not yet in Delta.",),
    Exported("lastgood_commits", "counter", "Delta commits of the receiver.",),
    Exported("lastgood_commit_seconds", "counter", "Time spent in them, decoding included.",),
    Exported("lastgood_drain_restarts", "counter", "Times the drain process died and was started again.",),
    Exported("lastgood_spool_errors", "counter", "Times the spool could not be written or handed to the drain (disk full, I/O error).",),
    Exported("lastgood_task_errors", "counter", "Times a task of the service failed in a way that nobody foresaw.",),
    Exported("lastgood_series_dropped", "gauge", "Versions left out because the bound on series was reached.",),
    Exported("lastgood_scrape_seconds", "gauge", "Time the newest refresh of the figures took.", (), "for whoever tunes the scrape"),
    Exported("lastgood_build_info", "gauge", "1, with the version of Lastgood.", ("version",), "a label, not a figure"),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in CATALOGUE}
"""Name without its ending -> metric."""
SERIES = {series: metric for metric in CATALOGUE for series in metric.series}
"""Name as queries use it -> metric."""
