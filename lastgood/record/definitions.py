"""Every figure that Lastgood shows to people, once: its name, its formula, what an unknown value does to it (pure). docs/reference/figures.md and the
page of definitions are made of this.

`w` is the weight of a request: 1 / the fraction of requests that was sampled.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """`anchor`: what a link names it by. Texts may hold `code`. `tests`: the tests that recompute it from single requests."""

    anchor: str
    name: str
    formula: str
    unknown: str
    tests: str


DEFINITIONS = (
    Definition(
        "requests", "Requests, Throughput",
        "Σ w; a second: divided by the width of the window",
        "a row that cannot be a request is in `quarantine`, with its reason",
        "test_counting",
    ),
    Definition("error-rate", "Error rate", "Σ w of requests with an `error_code` / Σ w", "a request without a code succeeded", "test_counting"),
    Definition(
        "errors-by-code", "Errors by code",
        "Σ w by `error_code`; by class: the class of the code (`lastgood.record.fault`)",
        "a code of no class counts as the model's",
        "test_counting",
    ),
    Definition("burn", "Error budget burn", "error rate / `error_slo`", "no requests: not shown", "test_rules"),
    Definition(
        "latency", "Latency p50, p95, p99",
        "the smallest bucket below which lies the share q of Σ w of all requests with a latency, failed ones too; buckets are 2% wide, so "
        "it is off by less than 1%",
        "a request without a latency is not in it",
        "test_windows",
    ),
    Definition("mean-latency", "Mean latency", "Σ w latency / Σ w of requests with a latency, by buckets", "the same", "test_windows"),
    Definition("first-token", "Time to first token", "as latency, of successes that report one", "others are not in it", "test_counting"),
    Definition("pace", "Pace", "latency / (`tokens_out` + 16), of successes with both", "others are not in it", "test_counting"),
    Definition(
        "tokens-per-request", "Tokens per request",
        "Σ w tokens / Σ w of requests that say their tokens (`told_in`, `told_out`), prompt and generated apart",
        "a request that says none is in neither sum",
        "test_figures",
    ),
    Definition("tokens", "Tokens in the last hour", "Σ w tokens", "what no request says is missing: compare `told_in` with `requests`", "test_figures"),
    Definition("feature-age", "Feature age", "as latency, of `feature_age_ms`: the oldest feature that was used", "others are not in it", "test_counting"),
    Definition(
        "feature-sources", "Age of feature sources",
        "now - newest event time in the source",
        "a source that cannot be read is `unknown` and pages",
        "test_evidence",
    ),
    Definition(
        "bad-answers", "Bad answers",
        "Σ w of answers with a flag that counts at the endpoint / Σ w of successful answers whose text was captured (`answers`)",
        "no text: not in it; a flag in `flags_shown_only` does not count",
        "test_quality",
    ),
    Definition("labelled", "Labelled", "answers with a label's truth / answers looked at", "a label whose request is not known waits 35 days", "test_upkeep"),
    Definition(
        "label-delay", "Label delay",
        "moment a label or feedback was received - moment of its request; median and 90th percentile over the requests in the hourly samples",
        "a request whose label has not come yet is not in it: compare `labelled`",
        "test_weeks",
    ),
    Definition(
        "correct", "Correct, precision, recall",
        "mean of 0 and 1 over labelled answers; precision where yes was answered, recall where yes was right; Wilson's interval",
        "several labels of one request: the last by `at`, else by when it was received",
        "test_upkeep, test_outcomes",
    ),
    Definition(
        "estimated-performance", "Estimated performance",
        "accuracy, precision, recall, F1 and ROC AUC of the confusion matrix that scores make likely by the labelled reference (the first "
        "`reference_days` of the version); of a regressor the mean loss that is learnt from inputs; a label takes the place of its answer's estimate",
        "too few labels in the reference, answers outside of what it covers, labels that contradict it: no number, and why",
        "test_performance",
    ),
    Definition("scores", "Absolute error, thumbs, scores", "mean of the values; Student's interval", "infinite and NaN: left out", "test_outcomes"),
    Definition(
        "distance", "Distance from the reference",
        "Jensen-Shannon distance of a column's two samples; nulls are a column of their own (`NAME_missing`)",
        "fewer values than the policy asks: no distance, said so",
        "test_comparison",
    ),
    Definition(
        "completeness", "Completeness",
        "requests seen / requests that there must have been (usage table, else the endpoint's own metrics, else weights, else the overlap of "
        "two sources)",
        "no such source: null, and the judge says so",
        "test_measures",
    ),
    Definition(
        "telemetry-age", "Age of the newest telemetry",
        "now - start of the newest window",
        "no window: not shown, and an alert on its absence",
        "test_rules",
    ),
    Definition(
        "tool-calls", "Tool calls that fail",
        "Σ w of tool calls with an error code / Σ w of tool calls, `w` of their run; the score `tools`: mean over runs of the share that "
        "succeeded",
        "a run without tool calls is in neither",
        "test_agents, test_trees",
    ),
    Definition(
        "runs", "Runs that loop or hit a step limit",
        "Σ w of such runs / Σ w of runs (`loops_known` for loops)",
        "arguments that are not captured: loops are not known",
        "test_agents",
    ),
    Definition(
        "conversations", "Conversations abandoned, repeated, escalated",
        "their number / `closed`, `repeated_known`, `conversations`",
        "an open conversation is not abandoned; questions that are not captured: not in it",
        "test_conversations",
    ),
    Definition(
        "judged-pairs", "Judged pairs",
        "mean over pairs of c j + (h - c j) / p where people were asked (chance p), c j where not; j, h: the scorer's and the people's score of the new "
        "version's answer less those of the prior's; c: regression of h on j over earlier pairs",
        "pairs that wait for a label, and those after them, are not in it; who is silent counts for the new version",
        "test_corrected, test_score",
    ),
    Definition(
        "scorers-that-fail", "Scorers that fail",
        "pairs of which an answer could not be judged / pairs judged, 30 days",
        "a failed answer has the score 0.5",
        "test_scorers, test_labels",
    ),
    Definition(
        "cost-by-token", "Cost by token",
        "(Σ w `tokens_in` × price in + Σ w `tokens_out` × price out + Σ w tokens of each kind × (its price - price of its side)) / 10⁶; "
        "kinds: cached, written to a cache, reasoning, audio",
        "of requests that say their tokens (`requests_with_tokens`); `lastgood cost` says which share does not, so the true cost is at least "
        "this",
        "test_figures",
    ),
    Definition(
        "cost-of-units", "Cost of provisioned units",
        "units × price an hour × 24 h; units = the busiest window's tokens a second / tokens a second of a unit, rounded up, at least 1",
        "no tokens: one unit",
        "test_figures",
    ),
    Definition(
        "cost-of-instances", "Cost of CPU or GPU",
        "instances × price an hour × hours up; instances = seconds of serving a second / requests an instance serves at once, rounded up. "
        "Up: every stretch of `idle_s` (at least a minute) with a request, or 24 h a day where it does not scale to zero. Versions and teams "
        "share it by their seconds of serving",
        "no price: null; nobody says a latency: one instance, shared by requests",
        "test_figures",
    ),
    Definition("detect", "Time to detect", "verdict - first bad window", "-", "test_controller"),
    Definition("restore", "Time to restore", "verified recovery - verdict", "not verified: not shown", "test_controller"),
    Definition(
        "evidence", "Evidence (e-value)",
        "a version that is no worse shows 100 at most once in 100 times, however often it is looked at",
        "windows that cannot be compared are left out, and said",
        "test_eprocess",
    ),
)  # fmt: skip

BY_ANCHOR = {definition.anchor: definition for definition in DEFINITIONS}
