"""An endpoint -> the release checklist, run for real: each row says what was found and how to fix it."""

import math
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
from scipy.stats import binom

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.notify.pagerduty import event
from lastgood.alerts.promote import REGISTRY_ROW, registry_tags
from lastgood.alerts.records import Check, Rollback
from lastgood.alerts.registry import refusal
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.rollback.plan import Kind, make_plan
from lastgood.errors import LastgoodError, RefusedError
from lastgood.record import metrics
from lastgood.record.windows import merge
from lastgood.record.words import counted
from lastgood.tables import measures
from lastgood.workspace import Endpoint, ServedEntity

RECENT_WINDOWS = 30
REHEARSAL = "rehearsal: "
"""What the audit log's entries of rehearsals begin with."""
Follow = Callable[[Rollback], Rollback]
Rehearse = Callable[[str, str, str], object]
"""Endpoint, version, the endpoint that the version is on: rehearse it, which the audit log tells."""


@dataclass(frozen=True)
class Row:
    name: str
    passed: bool
    observed: str
    fix: str


class Checklist:
    """`follow` moves a drill on until it has ended; `rehearse` is asked only where `release.rehearse` says so. `who` is in the audit log."""

    def __init__(self, acts: Controller, store: tables.Store, follow: Follow, who: str, rehearse: Rehearse) -> None:
        self._acts, self._store, self._follow, self._who, self._rehearse = acts, store, follow, who, rehearse
        self._workspace = acts.workspace

    def run(self, name: str) -> Check:
        """All rows, in order; recorded. Errors: ConfigError, TransientError when the endpoint cannot be read."""
        self.endpoint = self._workspace.endpoint(name)
        self.settings = self._acts.settings.endpoint(name)
        self.want = self.settings.release
        self.serving = busiest(self.endpoint).entity_version
        rows = [self._row(check) for check in CHECKS]
        document = {"rows": [asdict(row) for row in rows]}
        check = Check(name, self.serving, self._acts.clock(), all(row.passed for row in rows), document)
        with self._acts.store.begin() as tx:
            tx.add_check(check)
            failed = [row.name for row in rows if not row.passed]
            facts = {"endpoint": name, "version": self.serving, "failed": failed}
            tx.record(check.at, self._who, "release check passed" if check.passed else "release check failed", **facts)
        return check

    def _row(self, check: "tuple[str, Callable[[Checklist], tuple[bool, str]], str]") -> Row:
        name, run, fix = check
        try:
            passed, observed = run(self)
        except LastgoodError as error:
            passed, observed = False, str(error)
        return Row(
            name, passed, observed, "" if passed else fix.format(name=self.endpoint.name, **self.want.model_dump())
        )

    # the checks: whether it is so, and what was found

    def anonymous(self) -> tuple[bool, str]:
        reply = self._workspace.invoke(self.endpoint.name, self.want.probe, token="")
        return reply.status in (401, 403), f"a request without credentials is answered {reply.status}"

    def accepted(self) -> tuple[bool, str]:
        reply = self._workspace.invoke(self.endpoint.name, self.want.probe)
        return reply.status == 200, f"a request with our token is answered {reply.status}"

    def permissions(self) -> tuple[bool, str]:
        held, want = self._workspace.permissions(self.endpoint.name), self.want.permissions
        wrong = [
            f"{who} holds {held.get(who, 'nothing')}, not {level}"
            for who, level in want.items()
            if held.get(who) != level
        ]
        more = [who for who, level in held.items() if level == "CAN_MANAGE" and who not in want]
        wrong += [f"{who} holds CAN_MANAGE and is not configured" for who in more]
        return bool(want) and not wrong, "; ".join(wrong) or (
            f"{len(held)} as configured" if want else "none are configured"
        )

    def contract(self) -> tuple[bool, str]:
        good = self._workspace.invoke(self.endpoint.name, self.want.probe)
        bad = self._workspace.invoke(self.endpoint.name, self.want.bad_probe)
        fields = set(good.body) if isinstance(good.body, dict) else set()
        missing = sorted(set(self.want.response_fields) - fields)
        sentence = f"answer has {sorted(fields)}, lacks {missing or 'nothing'}; a bad payload is answered {bad.status}"
        return bool(self.want.response_fields) and not missing and good.status == 200 and bad.status == 400, sentence

    def searchable(self) -> tuple[bool, str]:
        tag, started = f"release-{uuid.uuid4()}", time.monotonic()
        self._workspace.invoke(self.endpoint.name, {**self.want.probe, "client_request_id": tag})
        while (waited := time.monotonic() - started) < self.want.searchable_s:
            if where := self._find(tag):
                return True, f"the tagged request was found in {where} after {waited:.0f} s"
            time.sleep(min(1.0, self.want.searchable_s / 20))
        return False, f"the tagged request {tag} was not found within {self.want.searchable_s:g} s"

    def _find(self, tag: str) -> str:
        places = [("requests", self._store.home(tables.REQUESTS), "request_id")]
        if self.settings.payload_table:
            places.append(("the inference table", self._store.named(self.settings.payload_table), "client_request_id"))
        for name, home, column in places:
            if home.version() is not None and home.read([column], [(column, "=", tag)]).num_rows:
                return name
        return ""

    def latency(self) -> tuple[bool, str]:
        def probe_ms(_: int) -> float:
            reply = self._workspace.invoke(self.endpoint.name, self.want.probe)
            return reply.seconds * 1000 if reply.status == 200 else float("inf")

        with ThreadPoolExecutor(4) as pool:
            took = sorted(pool.map(probe_ms, range(self.want.probes)))
        low, p95, high = quantile_interval(took, 0.95)
        target = self.want.latency_p95_ms
        return (
            high < target,
            f"p95 {p95:.0f} ms (95%: {low:.0f} to {high:.0f}) of {counted(len(took), 'request')}, target {target:g} ms",
        )

    def rate_limit(self) -> tuple[bool, str]:
        limits = self.endpoint.gateway.get("rate_limits") or []
        return bool(limits), f"{len(limits)} rate limits"

    def autoscaling(self) -> tuple[bool, str]:
        entity = self.endpoint.entity(self.serving)
        settings = entity.settings if entity else {}
        names = (
            "workload_size",
            "min_provisioned_concurrency",
            "max_provisioned_concurrency",
            "max_provisioned_throughput",
        )
        sized = {name: settings[name] for name in names if settings.get(name)}
        return bool(sized) and not settings.get("scale_to_zero_enabled"), (
            f"{sized or 'no size'}, scale to zero {'on' if settings.get('scale_to_zero_enabled') else 'off'}"
        )

    def prior_ready(self) -> tuple[bool, str]:
        others = [e for e in self.endpoint.entities if e.entity_version != self.serving and e.ready]
        warm = [e.entity_version for e in others if not e.settings.get("scale_to_zero_enabled")]
        return bool(warm), f"ready beside version {self.serving}: {', '.join(warm) or 'none'}"

    def registered(self) -> tuple[bool, str]:
        alias = self.settings.registry_alias
        if not alias:
            return True, "the registry is left out (registry_alias is empty)"
        tags = registry_tags(self._workspace, self.endpoint, self.serving)
        return not (why := refusal(tags, self.serving)), why or f"version {self.serving} has no tag of a rollback"

    def drill(self) -> tuple[bool, str]:
        """There and back on the staging endpoint, through the real executor; never on one that people use."""
        name, started = self.settings.staging or self.endpoint.name, time.monotonic()
        if name not in {other.staging for other in self._acts.settings.endpoints.values()}:
            return False, f"not drilled: {name} is not named as the staging endpoint of any other"
        endpoint = self._workspace.endpoint(name)
        serving = busiest(endpoint).entity_version
        with self._acts.store.read() as tx:
            there_plan = self._acts.plan(tx, endpoint, serving, self._acts.aliases(endpoint), why="a drill")
        if done := self._shift(replace(there_plan, kind=Kind.DRILL)):
            return False, f"{name} to version {there_plan.prior_version}: {done}"
        first = time.monotonic() - started
        back = make_plan(
            self._workspace.endpoint(name),
            there_plan.prior_version,
            serving,
            refused=(),
            snapshot=None,
            reasons=("back from a drill",),
            now=self._acts.clock(),
            kind=Kind.DRILL,
            share=endpoint.share(serving),
            write_only=self._acts.settings.endpoint(name).write_only,
        )
        if done := self._shift(back):
            return False, f"{name} back to version {serving}: {done}"
        whole = time.monotonic() - started
        sentence = f"{name}: version {serving} to {there_plan.prior_version} in {first:.1f} s and back in {whole - first:.1f} s"
        return whole < self.want.drill_s, sentence

    def rehearsal(self) -> tuple[bool, str]:
        """Of the version, beside the one that serves on each endpoint that this one is the staging of, or here."""
        name, every = self.endpoint.name, self._acts.settings.endpoints
        users = [other for other, own in every.items() if own.staging == name]
        wanted = [other for other in users if every[other].release.rehearse]
        for other in wanted:
            if other not in self._rehearsals():
                self._rehearse(other, self.serving, name)
        newest = {other: facts for other, facts in self._rehearsals().items() if other in (*users, name)}
        told = [
            f"{facts['state']} on {facts['at']:%Y-%m-%d %H:%M} UTC beside version {facts['prior']} of {other}: {facts['why']}"
            for other, facts in newest.items()
        ]
        good = ("as good",), ("as good", "undecided")
        passed = all(facts["state"] in good[other not in wanted] for other, facts in newest.items())
        return passed and newest.keys() >= set(wanted), "; ".join(told) or "not run (release.rehearse is false)"

    def _rehearsals(self) -> dict[str, dict[str, Any]]:
        """Endpoint -> what the newest rehearsal of the version beside it said, where it is not too old."""
        since = self._acts.clock() - timedelta(seconds=self.want.max_age_s)
        with self._acts.store.read() as tx:
            rows = [{**row["detail"], "at": row["at"]} for row in tx.audit(what=REHEARSAL) if row["at"] >= since]
        return {facts["endpoint"]: facts for facts in rows if facts["version"] == self.serving and "state" in facts}

    def _shift(self, plan: Any) -> str:
        """Empty when it was shifted and verified, else why not."""
        done = self._follow(self._acts.people.start(plan, self._who, "a drill"))
        return "" if done.state is Status.DONE else f"{done.state}: {done.progress.reason}"

    def owner(self) -> tuple[bool, str]:
        owner = self.endpoint.tags.get(self.want.owner_tag, "")
        return bool(owner), f"tag {self.want.owner_tag}: {owner or 'missing'}"

    def features(self) -> tuple[bool, str]:
        if not self.want.features:
            return True, "no features are used (release.features is false)"
        counts = [c for c in measures.windows(self._store, self.endpoint.name) if c.feature_age][-RECENT_WINDOWS:]
        if not counts:
            return False, "no request reports the age of its features"
        metric, limit = metrics.BY_NAME["feature_age_p95_ms"], self.settings.policy.feature_age_limit_ms
        age = metric.of(merge(counts))
        return age is not None and age <= limit, f"95th percentile {metric.show(age)}, limit {limit / 60_000:.0f} min"

    def dashboards(self) -> tuple[bool, str]:
        url = self.want.dashboard_url or self._acts.settings.dashboard_url
        if not url:
            return False, "no dashboard is configured"
        try:
            status = httpx.get(url, timeout=10, follow_redirects=True).status_code
        except (httpx.TransportError, httpx.InvalidURL) as error:
            return False, f"the dashboard cannot be reached: {type(error).__name__}"
        return status == 200, f"the dashboard answers {status}"

    def alerts(self) -> tuple[bool, str]:
        """A resolve of a key nobody knows shows that the receiver takes our events, and wakes nobody."""
        answers = self._acts.try_notifiers(event("resolve", "lastgood-release-check"))
        wrong = [f"{name}: {answer}" for name, answer in answers.items() if answer]
        real = [name for name in answers if name != "log"]
        return bool(real) and not wrong, "; ".join(wrong) or (", ".join(real) or "no receiver is configured")


def busiest(endpoint: Endpoint) -> ServedEntity:
    """The served entity with the most traffic. Errors: RefusedError when nothing is served."""
    entity = max(endpoint.entities, key=lambda e: endpoint.traffic.get(e.name, 0), default=None)
    if entity is None:
        raise RefusedError(f"{endpoint.name} serves nothing")
    return entity


def quantile_interval(ordered: Sequence[float], q: float, level: float = 0.95) -> tuple[float, float, float]:
    """(low, quantile, high) from order statistics: distribution-free, exact binomial coverage of at least `level`.

    Infinite where the sample is too small for an upper limit (72 values for q = 0.95).
    Source: Hahn and Meeker, Statistical Intervals, section 5.2.
    """
    n, tail = len(ordered), (1 - level) / 2
    low, high = int(binom.ppf(tail, n, q)), int(binom.ppf(1 - tail, n, q)) + 1
    value = ordered[max(math.ceil(q * n) - 1, 0)]
    return ordered[max(low - 1, 0)], value, ordered[high - 1] if high <= n else float("inf")


CHECKS: tuple[tuple[str, Callable[[Checklist], tuple[bool, str]], str], ...] = (
    ("anonymous requests refused", Checklist.anonymous, "put the endpoint behind the workspace's authentication"),
    ("token accepted", Checklist.accepted, "grant CAN_QUERY on {name} to the principal Lastgood runs as"),
    (
        "permissions as configured",
        Checklist.permissions,
        "list them under endpoints.{name}.release.permissions, or change them",
    ),
    ("contract honoured", Checklist.contract, "list release.response_fields; answer them, and 400 to a bad payload"),
    (
        "logs searchable",
        Checklist.searchable,
        "turn the inference table on, set payload_table, and schedule `lastgood job all`",
    ),
    (
        "latency under target",
        Checklist.latency,
        "a larger workload_size, or a release.latency_p95_ms above {latency_p95_ms:g}",
    ),
    ("rate limit set", Checklist.rate_limit, "set rate_limits in the AI Gateway of {name}"),
    (
        "autoscaling set",
        Checklist.autoscaling,
        "set a workload_size or provisioned concurrency, and turn scale to zero off",
    ),
    ("prior version ready", Checklist.prior_ready, "keep the version before it deployed at 0% with scale to zero off"),
    (
        REGISTRY_ROW,
        Checklist.registered,
        "serve another version, or, if it is good now, delete its tag lastgood_rolled_back",
    ),
    ("rollback tested", Checklist.drill, "set endpoints.{name}.staging; a prior version must be ready there"),
    (
        "rehearsed",
        Checklist.rehearsal,
        "see `lastgood rehearse ENDPOINT VERSION --on {name}`: mend what is worse, or rehearse more requests where it is undecided",
    ),
    ("ownership assigned", Checklist.owner, "tag {name} with {owner_tag}"),
    (
        "features fresh",
        Checklist.features,
        "run the feature pipeline; send feature.age_ms with spans, or set release.features",
    ),
    ("dashboards exist", Checklist.dashboards, "set dashboard_url to a page that answers"),
    ("alerts exist", Checklist.alerts, "configure PagerDuty, Alertmanager, Slack or a webhook, with a key that works"),
)
