"""Exported metrics and policies -> Prometheus recording and alerting rules (pure). `lastgood rules build` writes them.

Objectives are watched by multi-window, multi-burn-rate alerts (Google SRE workbook, chapter 5): an alert fires while both a long and
a short window burn the budget faster than the factor, and ends soon after the short one stops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lastgood.judge.days import FELL_DAYS, UNKNOWN_DAYS
from lastgood.record.exported import AGE_BUCKETS_S, BUCKETS_S, VERDICTS
from lastgood.record.verdict import State
from lastgood.record.words import percent
from lastgood.settings import Policy, Settings

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BURNS = (
    ("1h", "5m", 14.4, "page"),
    ("6h", "30m", 6.0, "page"),
    ("1d", "2h", 3.0, "ticket"),
    ("3d", "6h", 1.0, "ticket"),
)
"""(long window, short window, factor, severity)."""
Rule = dict[str, Any]
_DURATION = "lastgood_request_duration_seconds"


@dataclass(frozen=True)
class Scope:
    """Endpoints that share a policy: `match` is a label matcher (without braces), `name` what rules are called after."""

    name: str
    match: str
    policy: Policy


def scopes(settings: Settings) -> list[Scope]:
    """One scope per endpoint with a policy of its own, and one for all others."""
    own = {
        name: endpoint.policy
        for name, endpoint in settings.endpoints.items()
        if endpoint.policy != settings.default.policy
    }
    result = [Scope(name, f'endpoint="{_quoted(name)}"', policy) for name, policy in sorted(own.items())]
    others = "|".join(_quoted(_regex(name)) for name in sorted(own))
    return [*result, Scope("default", f'endpoint!~"{others}"' if own else 'endpoint!=""', settings.default.policy)]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _regex(text: str) -> str:
    return "".join(f"\\{character}" if character in ".+*?()|[]{}^$\\" else character for character in text)


def edge(seconds: float, edges: Sequence[float]) -> float:
    """The bucket edge that stands for a limit: the smallest that is not below it, else the largest."""
    return next((edge for edge in edges if edge >= seconds), edges[-1])


def _ratio(bad: str, total: str, window: str, by: str = "endpoint") -> str:
    return f"sum by ({by}) (rate({bad}[{window}])) / (sum by ({by}) (rate({total}[{window}])) > 0)"


def _beyond(name: str, edges: Sequence[float], limit: float, match: str, window: str) -> str:
    """Share of a histogram's values above a limit."""
    within = f'sum by (endpoint) (rate({name}_bucket{{{match},le="{edge(limit, edges)}"}}[{window}]))'
    return f"1 - {within} / (sum by (endpoint) (rate({name}_count{{{match}}}[{window}])) > 0)"


def recording(all_scopes: Sequence[Scope]) -> list[Rule]:
    """Ratios per endpoint over every window that an alert needs; the latency target is each scope's own."""
    rules: list[Rule] = []
    for window in WINDOWS:
        expr = _ratio("lastgood_errors_total", "lastgood_requests_total", window)
        rules.append({"record": f"lastgood:error_ratio:rate{window}", "expr": expr})
        for scope in all_scopes:
            slow = _beyond(_DURATION, BUCKETS_S, scope.policy.latency_target_s, scope.match, window)
            named = {"policy": scope.name}
            rules.append({"record": f"lastgood:slow_ratio:rate{window}", "expr": slow, "labels": named})
    expr = _ratio("lastgood_bad_answers_total", "lastgood_answers_total", "1h", "endpoint, model_version")
    return [*rules, {"record": "lastgood:bad_answer_ratio:rate1h", "expr": expr}]


class _Alerts:
    """Makes alerting rules with the annotations that every alert has."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings.web.base_url.rstrip("/")
        self._runbooks = settings.runbooks

    def make(
        self, name: str, expr: str, severity: str, summary: str, hold: str = "0m", link: str = "/", **labels: str
    ) -> Rule:
        rule: Rule = {"alert": name, "expr": expr, "labels": {"severity": severity, **labels}}
        if hold != "0m":
            rule["for"] = hold
        return rule | {
            "annotations": {
                "summary": summary,
                "runbook_url": f"{self._runbooks}#{name.lower()}",
                "evidence_url": f"{self._base}{link}",
            }
        }

    def burn(self, scope: Scope, what: str, record: str, budget: float, name: str) -> list[Rule]:
        rules = []
        for long, short, factor, severity in BURNS:
            limit = f"{factor:g} * {budget:g}"
            parts = (f"{record}:rate{window}{{{scope.match}}} > {limit}" for window in (long, short))
            summary = (
                f"{{{{ $labels.endpoint }}}}: {{{{ $value | humanizePercentage }}}} of requests {what} over {long}; "
                f"the objective is {percent(budget)}, burnt {factor:g} times too fast"
            )
            rules.append(self.make(name, " and ".join(parts), severity, summary, window=long, policy=scope.name))
        return rules

    def scope(self, scope: Scope) -> list[Rule]:
        """The alerts on served models, with one policy's limits."""
        p, m = scope.policy, scope.match
        stale_le = edge(p.feature_age_limit_ms / 1000, AGE_BUCKETS_S)
        stale = _beyond("lastgood_feature_age_seconds", AGE_BUCKETS_S, stale_le, m, "15m")
        source = f"time() - lastgood_feature_source_timestamp_seconds{{{m}}} > {p.feature_age_limit_ms / 1000:g}"
        quality = f"lastgood:bad_answer_ratio:rate1h{{{m}}} > {p.quality_slo:g}"
        blind = f"time() - lastgood_newest_window_timestamp_seconds{{{m}}} > {p.max_evidence_age_s:g}"
        who = "{{ $labels.endpoint }}"
        return [
            *self.burn(scope, "fail", "lastgood:error_ratio", p.error_slo, "LastgoodErrorBudgetBurn"),
            *self.burn(scope, "are slow", "lastgood:slow_ratio", p.latency_slo, "LastgoodLatencyBudgetBurn"),
            self.make("LastgoodFeaturesStale", f"{stale} > 0.5", "ticket", f"{who}: {{{{ $value | humanizePercentage }}}} of requests "
                      f"used features older than {stale_le / 60:g} minutes", "15m", policy=scope.name),
            self.make("LastgoodFeatureSourceOld", source, "ticket", f"{who}: {{{{ $labels.kind }}}} {{{{ $labels.source }}}} has had nothing new "
                      "for {{ $value | humanizeDuration }}", "15m", policy=scope.name),
            self.make("LastgoodAnswersBad", quality, "ticket", f"{who} {{{{ $labels.model_version }}}}: {{{{ $value | humanizePercentage }}}} "
                      "of answers are empty, refused, repetitive, cut, leaking or echoing", "15m", policy=scope.name),
            self.make("LastgoodBlind", blind, "page", f"{who}: no telemetry for {{{{ $value | humanizeDuration }}}}: nobody is judged",
                      "10m", policy=scope.name),
        ]  # fmt: skip

    def verdicts(self) -> list[Rule]:
        who = "{{ $labels.endpoint }} version {{ $labels.model_version }}"
        page = "/endpoints/{{ $labels.endpoint }}"
        undecided = f"lastgood_verdict == {VERDICTS[State.ROLL_BACK]} and on (endpoint) lastgood_incidents_open > 0"
        return [
            self.make("LastgoodRollBack", undecided, "page", f"{who} should be rolled back"),
            self.make("LastgoodPage", f"lastgood_verdict == {VERDICTS[State.PAGE]}", "page", f"{who}: the evidence needs a person", "5m"),
            self.make("LastgoodDrift", 'lastgood_drifted{against="reference"} == 1', "ticket",
                      f"{who}: {{{{ $labels.column }}}} has moved away from its reference", "30m"),
            self.make("LastgoodPerformanceFell", f"lastgood_estimated_performance_fell_days >= {FELL_DAYS}", "ticket",
                      f"{who}: estimated {{{{ $labels.metric }}}} is worse than in the reference for {{{{ $value }}}} days", "30m", page),
            self.make("LastgoodPerformanceUnknown", f"lastgood_estimated_performance_unknown_days >= {UNKNOWN_DAYS}", "ticket",
                      f"{who}: how good it is cannot be known for {{{{ $value }}}} days", "30m", page),
        ]  # fmt: skip

    def itself(self, settings: Settings) -> list[Rule]:
        """Lastgood's own health."""
        half = settings.receiver.max_spool_bytes / 2
        return [
            self.make("LastgoodDown", "absent(lastgood_build_info)", "page", "no Lastgood service is scraped", "5m"),
            self.make("LastgoodJobsLate", 'time() - lastgood_job_run_timestamp_seconds{job="windows"} > 7200', "page",
                      "the jobs have not run for {{ $value | humanizeDuration }}", "5m"),
            self.make("LastgoodVerdictOld", "time() - lastgood_verdict_timestamp_seconds > 7200", "ticket",
                      "{{ $labels.endpoint }} has not been judged for {{ $value | humanizeDuration }}", "15m"),
            self.make("LastgoodSpoolFilling", f"lastgood_spool_bytes > {half:g}", "page",
                      "the receiver's spool is half full ({{ $value | humanize1024 }}B): Delta does not keep up", "5m"),
            self.make("LastgoodExportsRefused", "increase(lastgood_exports_refused_total[10m]) > 0", "ticket",
                      "the receiver did not take {{ $value | humanize }} exports: {{ $labels.reason }}"),
            self.make("LastgoodDrainDies", "increase(lastgood_drain_restarts_total[1h]) > 2", "page",
                      "the receiver's drain died {{ $value | humanize }} times in an hour"),
            self.make("LastgoodTaskFails", "increase(lastgood_task_errors_total[15m]) > 0", "page",
                      "a task of the service failed {{ $value | humanize }} times in 15 minutes"),
            self.make("LastgoodCannotProtect", "lastgood_cannot_protect == 1", "page",
                      "Lastgood cannot protect you now: {{ $labels.reason }} (see /healthz)", "5m", "/healthz"),
            self.make("LastgoodMessagesRefused", "lastgood_messages_refused > 0", "page",
                      "{{ $labels.channel }} refuses {{ $value }} messages: they are kept until its configuration is mended"),
            self.make("LastgoodDecisionFails", "increase(lastgood_decision_faults_total[15m]) > 3", "ticket",
                      "decisions fail ({{ $labels.kind }}): see the service's log"),
            self.make("LastgoodScorerFails", "2 * lastgood_scorer_failed > 0.1 * lastgood_scorer_answers", "ticket",
                      "{{ $labels.scorer }} cannot judge {{ $value }} answers of {{ $labels.endpoint }}", "10m", "/labels"),
            self.make("LastgoodScorerMoved", "lastgood_scorer_moved > 0.2", "ticket",
                      "{{ $labels.scorer }} says something else when it is asked again ({{ $labels.endpoint }})", "10m", "/labels"),
            self.make("LastgoodMessagesWaiting", "lastgood_messages_waiting > 0", "ticket", "{{ $value }} messages are not delivered", "15m"),
            self.make("LastgoodSettingsRefused", "lastgood_settings_refused == 1", "ticket",
                      "the settings file is wrong: the policies stay as they were", "5m"),
            self.make("LastgoodKillSwitchOn", "lastgood_kill_switch == 1", "ticket", "all automatic action is stopped", "1h", "/kill"),
            self.make("LastgoodSeriesDropped", "lastgood_series_dropped > 0", "ticket",
                      "{{ $value }} versions are not exported: the bound on series is reached", "1h"),
            self.make("LastgoodContentsRare", "lastgood_contents_rare > 1000", "ticket",
                      "{{ $value }} requests of {{ $labels.endpoint }} in a day have a prompt that is nobody else's: edits of it are not judged", "6h"),
        ]  # fmt: skip


def document(settings: Settings) -> Mapping[str, Any]:
    """The rules file as plain values."""
    all_scopes, alerts = scopes(settings), _Alerts(settings)
    groups = [{"name": "lastgood-ratios", "rules": recording(all_scopes)}]
    groups += [{"name": f"lastgood-objectives-{scope.name}", "rules": alerts.scope(scope)} for scope in all_scopes]
    groups += [
        {"name": "lastgood-verdicts", "rules": alerts.verdicts()},
        {"name": "lastgood-itself", "rules": alerts.itself(settings)},
    ]
    return {"groups": groups}


def build(settings: Settings) -> str:
    """The rules file."""
    head = "# Built by `lastgood rules build` from the policies; edits are lost.\n"
    return head + yaml.safe_dump(document(settings), sort_keys=False, width=1000, allow_unicode=True)
