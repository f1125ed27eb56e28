"""Every Delta table Lastgood owns: columns, keys, partitioning, retention (pure)."""

from dataclasses import dataclass, replace

from lastgood.record import telemetry
from lastgood.record.telemetry import Field


@dataclass(frozen=True)
class Table:
    """A table: its columns, the key that makes a row unique, partition columns, days kept, whether changes are fed on."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    days: int = 400
    change_feed: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)


_WINDOW_KEY = (
    Field("endpoint", "string", "serving endpoint"),
    Field("model_version", "string", "model version, '?' when no source named it"),
    Field("stratum", "string", "latency scope / prompt-length bucket, see windows.stratum"),
    Field("window_start", "timestamp", "start of the window, UTC"),
)
_KEY_NAMES = ("endpoint", "model_version", "stratum", "window_start")

INBOX = Table("inbox", telemetry.INBOX, days=30, change_feed=True)
REQUESTS = Table("requests", telemetry.REQUEST, ("endpoint", "request_id"), change_feed=True)
QUARANTINE = Table(
    "quarantine",
    (
        Field("quarantine_id", "string", "SHA-256 of source, reason and bytes"),
        Field("received_at", "timestamp", "when it reached Lastgood, UTC"),
        Field("source", "string", "a key of telemetry.SOURCES"),
        Field("reason", "string", "why it cannot be a record"),
        Field("raw", "binary", "original bytes, or the row as JSON"),
    ),
    ("quarantine_id",),
    days=30,
)
SCORES = Table(
    "scores",
    (
        Field("endpoint", "string", "serving endpoint; null when only the trace is known"),
        Field("request_id", "string", "request the score is about; null when only the trace is known"),
        Field("trace_id", "string", "trace id, 32 hex digits"),
        Field("name", "string", "what was evaluated"),
        Field("value", "double", "the score"),
        Field("label", "string", "the score in a word"),
        Field("explanation", "string", "why"),
        Field("source", "string", "otlp, or who reported it"),
        Field("at", "timestamp", "when it was evaluated, UTC"),
        Field("received_at", "timestamp", "when it reached Lastgood, UTC"),
    ),
    change_feed=True,
)
JUDGED = Table(
    "judged",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("candidate", "string", "the new version of the pair"),
        Field("prior", "string", "the version before it"),
        Field("scorer", "string", "what was judged, and what people label"),
        Field("scorer_version", "string", "which scorer: kind, model or function, and a hash of its settings"),
        Field("pair_id", "string", "hash of endpoint, scorer and both requests"),
        Field(
            "again", "boolean", "whether the pair was judged before: this says whether the scorer still says the same"
        ),
        Field("request_ids", "array<string>", "the prior version's request, the new version's"),
        Field("alike", "string", "why the two are a pair: same (input), similar (length and hour)"),
        Field(
            "scores",
            "array<double>",
            "0-1 of the prior version's answer, of the new one's; 0.5 where the scorer failed",
        ),
        Field("reasons", "array<string>", "what the scorer said of each"),
        Field("errors", "array<string>", "why it failed; null where it did not"),
        Field("asked", "boolean", "whether people are asked to label both"),
        Field("chance", "double", "with which that was drawn"),
        Field("label_wait_s", "double", "so long the labels are waited for, in seconds"),
        Field("tokens_in", "bigint", "prompt tokens of the scorer's model"),
        Field("tokens_out", "bigint", "its generated tokens"),
        Field("money", "double", "what they cost by the scorer's prices"),
        Field("seconds", "double", "how long the scorer took"),
        Field("judged_at", "timestamp", "when, UTC"),
    ),
    ("pair_id", "judged_at"),
)
CONTENTS = Table(
    "contents",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field(
            "content",
            "string",
            "hash of the parts that make a version of it (setting versions_by); '?' stands for all that are too rare",
        ),
        Field("model_version", "string", "version that served its first request"),
        Field("first_at", "timestamp", "its first request, UTC"),
        Field("requests", "bigint", "requests of it in the run that noted it"),
        Field("admitted", "boolean", "whether it is a version of its own from then on"),
        Field(
            "replaces",
            "string",
            "the content that it took the place of: the most similar one; null where none is similar",
        ),
        Field("who", "string", "who sent it, as the first request says: commit, author, team; null where it does not"),
        Field("parts", "map<string,string>", "part -> digest"),
        Field("texts", "map<string,string>", "part -> its text, where capture lets texts through"),
        Field("noted_at", "timestamp", "when it was noted, UTC"),
    ),
)
STEPS = Table(
    "steps",
    (
        Field("endpoint", "string", "endpoint of the request that the step is part of"),
        Field("request_id", "string", "that request"),
        Field("trace_id", "string", "trace id, 32 hex digits"),
        Field("span_id", "string", "the step's span id"),
        Field("parent_id", "string", "its parent's"),
        Field("model_version", "string", "version of the request"),
        Field("kind", "string", "chat, embedding, tool, agent, workflow, retrieval, chain, ..."),
        Field("name", "string", "name of the tool, agent or workflow; of a call its model"),
        Field("agent", "string", "the innermost agent or workflow that it is below"),
        Field("started_at", "timestamp", "when it began, UTC"),
        Field("latency_ms", "double", "how long it took, in milliseconds"),
        Field("error_code", "string", "null = success"),
        Field("tokens_in", "bigint", "prompt tokens of a call"),
        Field("tokens_out", "bigint", "generated tokens of a call"),
    ),
    ("trace_id", "span_id"),
    days=35,
)
ENDPOINT_MINUTES = Table(
    "endpoint_minutes",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("minute", "timestamp", "start of the minute the figures are of, UTC"),
        Field("requests", "double", "requests, as the endpoint's own /metrics says"),
        Field("errors_4xx", "double", "of them answered with 4xx"),
        Field("errors_5xx", "double", "of them answered with 5xx"),
        Field("provisioned", "double", "requests that its replicas can serve at once; null when it does not say"),
        Field("scraped_at", "timestamp", "when it was asked, UTC"),
    ),
    ("endpoint", "minute"),
)
FRESHNESS = Table(
    "freshness",
    (
        Field("endpoint", "string", "serving endpoint whose features come from the source"),
        Field("kind", "string", "feature_table, synced_table, online_table or vector_index"),
        Field("name", "string", "catalog name or folder of the source"),
        Field(
            "as_of", "timestamp", "newest event time in it, else the commit it reflects, UTC; null when it does not say"
        ),
        Field("committed_at", "timestamp", "its newest commit, UTC"),
        Field("rows", "bigint", "rows it says it holds"),
        Field("state", "string", "what its status says, or why it could not be asked"),
        Field("checked_at", "timestamp", "when it was asked, UTC"),
    ),
)
WINDOWS = Table(
    "windows",
    (
        *_WINDOW_KEY,
        Field("rows", "bigint", "rows seen"),
        Field("requests", "double", "requests they stand for"),
        Field("errors", "map<string,double>", "error code -> requests"),
        Field(
            "latency",
            "map<int,double>",
            "latency_ms bucket -> requests, see windows.bucket",
        ),
        Field("ttft", "map<int,double>", "ttft_ms bucket -> successes"),
        Field("feature_age", "map<int,double>", "feature_age_ms bucket -> requests"),
        Field("tokens_in", "double", "prompt tokens"),
        Field("tokens_out", "double", "generated tokens"),
        Field(
            "error_requesters",
            "array<string>",
            "hashes of up to 8 requesters that saw a failure",
        ),
        Field("length", "map<int,double>", "tokens_out bucket -> successes"),
        Field("pace", "map<int,double>", "bucket of latency_ms / (tokens_out + 16) -> successes"),
        Field("failed_latency", "map<int,double>", "the part of `latency` that failed"),
        Field("callers", "map<string,array<bigint>>", "hash -> facts of a requester, see windows.Counts; at most 512"),
        Field(
            "scores",
            "map<string,array<double>>",
            "evaluation or label (attribute eval.*) -> number, sum, sum of squares",
        ),
        Field(
            "score_callers",
            "map<string,array<double>>",
            "hash of a requester/name -> its part of `scores`; at most 512",
        ),
        Field("told_in", "double", "requests that say their prompt tokens"),
        Field("told_out", "double", "requests that say their generated tokens"),
        *(
            Field(
                f"tokens_{kind}",
                "double",
                next(field.doc for field in telemetry.VALUES if field.name == f"tokens_{kind}"),
            )
            for kind in telemetry.KINDS
        ),
    ),
    _KEY_NAMES,
    change_feed=True,
)
WINDOWS_HOUR = replace(WINDOWS, name="windows_hour", days=1100)
WINDOWS_DAY = replace(WINDOWS, name="windows_day", days=3660, change_feed=False)
AGENT_RUNS = Table(
    "agent_runs",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("request_id", "string", "the request that the run is"),
        Field("trace_id", "string", "trace id, 32 hex digits"),
        Field("model_version", "string", "model version, '?' when no source named it"),
        Field("agent", "string", "outermost agent or workflow, '?' when it has no name"),
        Field("window_start", "timestamp", "start of the window it is counted in, UTC"),
        Field("started_at", "timestamp", "when it began, UTC"),
        Field("latency_ms", "double", "how long it took, in milliseconds"),
        Field("error_code", "string", "null = success"),
        Field("model_calls", "bigint", "calls of a model"),
        Field("tool_calls", "bigint", "calls of tools"),
        Field("tool_failures", "bigint", "of them failed"),
        Field(
            "longest_repeat",
            "bigint",
            "how often one call was made with the same arguments; null where these are not captured",
        ),
        Field(
            "looped",
            "boolean",
            "whether one call was made three times or more with the same arguments; null where these are not captured",
        ),
        Field("step_limit", "boolean", "whether a limit of steps stopped it"),
        Field("handoffs", "bigint", "how often another agent began than the one before"),
        Field("tokens_in", "bigint", "prompt tokens of all its calls"),
        Field("tokens_out", "bigint", "generated tokens"),
        Field("tokens_cached", "bigint", "of tokens_in: read from a prompt cache"),
        Field(
            "money",
            "double",
            "what its tokens cost by conf/prices.yaml; null where the endpoint is not paid by token or has no price",
        ),
        Field("tool_share", "double", "share of its time in which a tool ran, 0-1"),
        Field("weight", "double", "runs it stands for: 1 / sampling fraction"),
    ),
    ("endpoint", "request_id"),
    change_feed=True,
)
_AGENT_KEY = tuple(field for field in _WINDOW_KEY if field.name != "stratum")
AGENT_WINDOWS = Table(
    "agent_windows",
    (
        *_AGENT_KEY,
        Field("agent", "string", "outermost agent or workflow, '?' when it has no name"),
        Field("rows", "bigint", "runs seen"),
        Field("runs", "double", "runs they stand for"),
        Field("failed", "double", "of them with an error code"),
        Field("looped", "double", "of them that made one call three times or more with the same arguments"),
        Field("loops_known", "double", "of them whose calls' arguments are known"),
        Field("step_limited", "double", "of them stopped at a limit of steps"),
        Field("tools_failed", "double", "of them with a failed tool call"),
        Field("handoffs", "double", "hand-offs"),
        Field("model_calls", "double", "calls of a model"),
        Field("tool_calls", "double", "calls of tools"),
        Field("tool_failures", "double", "of them failed"),
        Field("tokens_in", "double", "prompt tokens"),
        Field("tokens_out", "double", "generated tokens"),
        Field("tokens_cached", "double", "of tokens_in: read from a prompt cache"),
        Field("money", "double", "what the tokens cost; null where no run's cost is known"),
        Field("priced", "double", "runs whose cost is known"),
        Field("busy_ms", "double", "time of runs that say it, in milliseconds"),
        Field("tool_ms", "double", "of busy_ms: time in which a tool ran"),
        Field("latency", "map<int,double>", "latency_ms bucket -> runs, see windows.bucket"),
    ),
    ("endpoint", "model_version", "agent", "window_start"),
    change_feed=True,
)
TOOL_WINDOWS = Table(
    "tool_windows",
    (
        *_AGENT_KEY,
        Field("tool", "string", "name of the tool, '?' when it has none"),
        Field("calls", "double", "calls"),
        Field("errors", "double", "of them with an error code"),
        Field("runs", "double", "runs that called it"),
        Field("runs_failed", "double", "of them in which a call of it failed"),
        Field("codes", "map<string,double>", "error code -> calls"),
        Field("latency", "map<int,double>", "latency_ms bucket -> calls that say it, see windows.bucket"),
    ),
    ("endpoint", "model_version", "tool", "window_start"),
    change_feed=True,
)
CONVERSATIONS = Table(
    "conversations",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("conversation_id", "string", "the conversation"),
        Field(
            "model_version",
            "string",
            "the version that served all of it; '*' where several did, '?' where no source named it",
        ),
        Field("window_start", "timestamp", "start of the window of its newest request, UTC"),
        Field("started_at", "timestamp", "its first request, UTC"),
        Field("last_at", "timestamp", "end of its newest request, UTC"),
        Field("last_request", "string", "its newest request"),
        Field("requests", "bigint", "requests of the last 35 days"),
        Field("failed", "bigint", "of them with an error code"),
        Field("closed", "boolean", "whether nothing came for `conversation_idle_s`"),
        Field("abandoned", "boolean", "closed, and its newest request failed; null while it is open"),
        Field(
            "repeated",
            "boolean",
            "a question was asked again that had been answered; null where no question was captured",
        ),
        Field("escalated", "boolean", "a person was asked to take over, by a tool or feedback that the policy names"),
        Field("scored_at", "timestamp", "when its outcome was given to the judge, UTC; null where it was not"),
    ),
    ("endpoint", "conversation_id"),
    change_feed=True,
)
CONVERSATION_WINDOWS = Table(
    "conversation_windows",
    (
        *_AGENT_KEY,
        Field("conversations", "double", "conversations whose newest request is in the window"),
        Field("closed", "double", "of them over"),
        Field("abandoned", "double", "of them abandoned"),
        Field("repeated", "double", "of them with a question asked again"),
        Field("repeated_known", "double", "of them whose questions are known"),
        Field("escalated", "double", "of them escalated to a person"),
        Field("requests", "double", "requests of them all"),
    ),
    ("endpoint", "model_version", "window_start"),
    change_feed=True,
)
SCORE_CELLS = Table(
    "score_cells",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("model_version", "string", "model version"),
        Field("window_start", "timestamp", "start of the hour, UTC"),
        Field("predicted", "boolean", "whether the answer was yes, or the class"),
        Field(
            "cell", "int", "cell of the score, even in log odds; -1: no score between 0 and 1; a regressor's number: 0"
        ),
        Field("unlabelled", "bigint", "answers without a label"),
        Field("labelled", "bigint", "answers with one"),
        Field("positive", "bigint", "of them yes, or the class"),
        Field(
            "class_name",
            "string",
            "of several classes the one that is counted against the rest; answers without scores stand in the first",
        ),
    ),
    ("endpoint", "model_version", "window_start", "class_name", "predicted", "cell"),
)
PREDICTIONS = Table(
    "predictions",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("model_version", "string", "model version"),
        Field("window_start", "timestamp", "start of the day, UTC"),
        Field("request_id", "string", "request; a version's day has at most 2,000"),
        Field("requested_at", "timestamp", "when, UTC"),
        Field("hash", "bigint", "xxhash64 of request_id: the smallest are kept"),
        Field("prediction", "double", "the number that was answered"),
        Field("truth", "double", "its label; null: not there yet"),
        Field("features", "map<string,string>", "tabular inputs, as text"),
    ),
    ("endpoint", "model_version", "window_start", "request_id"),
)
ESTIMATES = Table(
    "estimates",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("model_version", "string", "model version"),
        Field("window_start", "timestamp", "start of the day, UTC"),
        Field("metric", "string", "accuracy, precision, recall, f1, roc_auc; mae, rmse of a regressor"),
        Field("value", "double", "estimated, or counted where labels are there; null: it cannot be known"),
        Field("low", "double", "lower end of its 95% interval"),
        Field("high", "double", "upper end"),
        Field("labelled", "double", "share of the answers that have their label"),
        Field("realised", "double", "the metric of these alone"),
        Field("usual", "double", "the metric of the version's labelled reference"),
        Field("rows", "bigint", "answers"),
        Field("reference", "boolean", "whether the day is part of the reference"),
        Field("reason", "string", "why it cannot be known"),
    ),
    ("endpoint", "model_version", "window_start", "metric"),
)
COMPLETENESS = Table(
    "completeness",
    (
        *(field for field in _WINDOW_KEY if field.name != "stratum"),
        Field("seen", "bigint", "rows of requests"),
        Field("expected", "double", "requests there should be; null when nothing independent says it"),
        Field(
            "expected_from",
            "string",
            "what says it: usage (table), endpoint (its own /metrics), sampling (fraction), sources (two that overlap)",
        ),
        Field("endpoint_requests", "double", "requests of all versions, as the endpoint's own /metrics counted them"),
        Field("endpoint_errors", "double", "of them answered with 4xx or 5xx"),
        Field("share", "double", "seen / expected, at most 1; null when expected is"),
        Field("by_source", "map<string,double>", "source -> rows it saw"),
        Field("delivery_lag_p50_ms", "double", "median of received - (requested + latency)"),
        Field("delivery_lag_p95_ms", "double", "95th percentile of it"),
        Field("null_body_share", "double", "of successful requests an inference table saw: share without an output"),
        Field("null_bodies", "map<string,double>", "why -> such rows"),
        Field(
            "clock_skew_ms", "double", "median of inference table's time - span's time, requests both saw, all versions"
        ),
    ),
    ("endpoint", "model_version", "window_start"),
)
QUALITY = Table(
    "quality",
    (
        *_WINDOW_KEY,
        Field(
            "quality",
            "map<string,double>",
            "output flag -> answers; `answers` looked at, `bad` with any bad flag",
        ),
        Field(
            "answer_callers", "map<string,array<double>>", "hash of a requester -> its `answers` and `bad`; at most 512"
        ),
    ),
    _KEY_NAMES,
)
_SAMPLE = (
    Field("endpoint", "string", "serving endpoint"),
    Field("model_version", "string", "model version"),
    Field("window_start", "timestamp", "start of the hour, UTC"),
    Field("request_id", "string", "request"),
    Field("requested_at", "timestamp", "when, UTC"),
    Field("hash", "bigint", "xxhash64 of request_id: the smallest are kept"),
    Field("tokens_in", "bigint", "prompt tokens"),
    Field("tokens_out", "bigint", "generated tokens"),
    Field("input_chars", "bigint", "length of the prompt"),
    Field("output_chars", "bigint", "length of the answer"),
    Field("finish_reason", "string", "why generation stopped"),
    Field("input", "string", "beginning of the prompt"),
    Field("output", "string", "beginning of the answer"),
    Field("features", "map<string,string>", "tabular inputs, as text"),
)
SAMPLES = Table("samples", _SAMPLE, ("endpoint", "model_version", "window_start", "request_id"), days=35)
BASELINES = Table(
    "baselines",
    (
        Field("baseline", "bigint", "number of the endpoint's baseline, from 1"),
        Field("note", "string", "what it is"),
        Field("set_at", "timestamp", "when it was set, UTC"),
        *_SAMPLE,
    ),
    ("endpoint", "baseline", "request_id"),
    days=3660,
)
DRIFT = Table(
    "drift",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("model_version", "string", "version whose requests are compared"),
        Field("against", "string", "what with: reference or prior"),
        Field("kind", "string", "input or output"),
        Field("column", "string", "column compared"),
        Field("computed_at", "timestamp", "when, UTC"),
        Field("n_current", "bigint", "rows of the current sample"),
        Field("n_reference", "bigint", "rows of the reference sample"),
        Field(
            "distance",
            "double",
            "Jensen-Shannon distance (base 2), 0-1, corrected for sample size",
        ),
        Field("low", "double", "lower 95% limit of distance (block jackknife)"),
        Field(
            "drifted",
            "boolean",
            "above the policy's drift limit, false discoveries among a report's columns at most 5%",
        ),
        Field("evidently_method", "string", "Evidently's own choice of method"),
        Field("evidently_score", "double", "Evidently's score by that method"),
        Field("evidently_drifted", "boolean", "Evidently's own verdict"),
        Field("reference", "string", "what the reference was: baseline N, last week, before, or a version"),
        Field("method", "string", "how distance was measured: jensen-shannon or classifier"),
        Field("p", "double", "how likely so much is where the true distance is the limit"),
    ),
    ("endpoint", "model_version", "against", "kind", "column", "computed_at"),
)
COST = Table(
    "cost",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("model_version", "string", "model version"),
        Field("team", "string", "calling team, '?' when nobody said"),
        Field("window_start", "timestamp", "start of the day, UTC"),
        Field("requests", "double", "requests"),
        Field("tokens_in", "double", "prompt tokens"),
        Field("tokens_out", "double", "generated tokens"),
        Field(
            "requests_with_tokens", "double", "requests that say their tokens: what is paid by token knows only these"
        ),
        Field("busy_s", "double", "seconds of serving: sum of latencies"),
        Field("mode", "string", "how the endpoint is served, by its settings"),
        Field("dbu", "double", "DBU by conf/prices.yaml; null when it has no price for that"),
        Field("money", "double", "the same in its currency"),
        Field("tokens_cached", "double", "of tokens_in: read from a prompt cache"),
        Field("tokens_cache_write", "double", "of tokens_in: written to a prompt cache"),
        Field("tokens_reasoning", "double", "of tokens_out: reasoning that is not shown"),
        Field("tokens_audio_in", "double", "of tokens_in: audio"),
        Field("tokens_audio_out", "double", "of tokens_out: audio"),
    ),
    ("endpoint", "model_version", "team", "window_start"),
    days=1100,
)
DEPLOYMENTS = Table(
    "deployments",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("config_version", "bigint", "the endpoint's config version"),
        Field("served_entity", "string", "served entity name"),
        Field("model_version", "string", "its model version"),
        Field("traffic", "bigint", "planned per cent of traffic"),
        Field("observed_at", "timestamp", "when first seen, UTC"),
    ),
    ("endpoint", "config_version", "served_entity"),
)
VERDICTS = Table(
    "verdicts",
    (
        Field("endpoint", "string", "serving endpoint"),
        Field("candidate", "string", "newest version taking traffic"),
        Field("prior", "string", "version before it; null when none is known"),
        Field("state", "string", "Healthy, Inconclusive, Watch, Page or RollBack"),
        Field("reason", "string", "one sentence with figures"),
        Field("e_value", "double", "evidence against the new version"),
        Field("since", "timestamp", "estimated onset, UTC"),
        Field("judged_at", "timestamp", "when, UTC"),
        Field("document", "string", "the whole verdict as JSON"),
    ),
    ("endpoint", "candidate", "judged_at"),
)
RUNS = Table(
    "runs",
    (
        Field("job", "string", "job name"),
        Field("source", "string", "table the job took its input from"),
        Field(
            "version",
            "bigint",
            "newest version of that table the run has taken in: where the next run starts",
        ),
        Field("rows_in", "bigint", "rows taken"),
        Field("rows_out", "bigint", "rows written or changed"),
        Field("seconds", "double", "run time"),
        Field("finished_at", "timestamp", "when, UTC"),
        Field("after", "bigint", "version of the source the run started from"),
        Field("quarantined", "bigint", "rows set aside"),
        Field("windows", "bigint", "windows recomputed"),
        Field("table_id", "string", "identity of the source table: another one is another table of that name"),
        Field("note", "string", "why the source was read whole and not by its changes; null when it was not"),
        Field(
            "passed_over",
            "bigint",
            "rows of the source that were changed or deleted after they were taken: counted, not taken again",
        ),
    ),
)

SALTS = Table(
    "salts",
    (
        Field("month", "string", "month of requests, as 2026-03"),
        Field("salt", "string", "what hashes of that month's requesters begin with"),
        Field("made_at", "timestamp", "when, UTC"),
    ),
    ("month",),
    days=62,
)
FORGOTTEN = Table(
    "forgotten",
    (
        Field(
            "requester",
            "string",
            "hash of a requester who is forgotten, with `salt` before the name; or of a request of theirs",
        ),
        Field("salt", "string", "the same in all rows"),
        Field("until", "timestamp", "requests until then are not taken in again, UTC"),
    ),
    ("requester",),
    days=36_500,
)

ALL = (
    INBOX,
    REQUESTS,
    QUARANTINE,
    SCORES,
    JUDGED,
    CONTENTS,
    STEPS,
    AGENT_RUNS,
    AGENT_WINDOWS,
    TOOL_WINDOWS,
    CONVERSATIONS,
    CONVERSATION_WINDOWS,
    ENDPOINT_MINUTES,
    FRESHNESS,
    WINDOWS,
    WINDOWS_HOUR,
    WINDOWS_DAY,
    QUALITY,
    SCORE_CELLS,
    PREDICTIONS,
    ESTIMATES,
    COMPLETENESS,
    SAMPLES,
    BASELINES,
    DRIFT,
    COST,
    DEPLOYMENTS,
    VERDICTS,
    RUNS,
    SALTS,
    FORGOTTEN,
)
NAMED = {table.name: table for table in ALL}
