"""Incident, rollback and links -> the message a person gets (pure)."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from lastgood.alerts.notify.pagerduty import event
from lastgood.alerts.records import PERSON, Incident
from lastgood.alerts.rollback.plan import Plan
from lastgood.record.verdict import State, Verdict
from lastgood.record.words import counted
from lastgood.settings import Settings

CERTAIN = 1_000_000


def sureness(e_value: float | None) -> str:
    """How sure the verdict is, in words."""
    if not e_value or e_value < 2:
        return "there is no statistical evidence of its own for this"
    if e_value >= CERTAIN:
        return "practically certain (a healthy version looks this bad less than once in a million times)"
    step = 10 ** max(0, math.floor(math.log10(e_value)) - 1)
    return (
        f"a healthy version would look this bad less than once in {counted(math.floor(e_value / step) * step, 'time')}"
    )


def trigger(
    incident: Incident,
    settings: Settings,
    now: datetime,
    sentence: str,
    *,
    severity: str,
    links: Mapping[str, str],
    **more: Any,
) -> dict[str, Any]:
    """The alert of an incident. `said`: what happened or is asked, before the verdict's reason."""
    verdict = incident.verdict
    details = {
        "reason": verdict["reason"],
        "sure": sureness(verdict["e_value"]),
        "new version": incident.candidate,
        "prior version": incident.prior,
        "since": verdict["since"],
        "findings": [finding["sentence"] for finding in verdict["findings"]],
        "figures": verdict["figures"],
        "mode": settings.endpoint(incident.endpoint).mode,
        **more,
    }
    return event(
        "trigger",
        incident.id,
        f"{incident.endpoint} version {incident.candidate}: {sentence}. {verdict['reason']}",
        severity=severity,
        source=f"lastgood/{incident.endpoint}",
        timestamp=now.isoformat(),
        details=details,
        links=links,
        about=about(incident),
    )


def about(incident: Incident) -> dict[str, str]:
    """What an incident is about, for receivers that know alerts by labels."""
    return {"endpoint": incident.endpoint, "version": incident.candidate}


def opened(verdict: Verdict, now: datetime) -> Incident:
    """A new incident."""
    key = _identity(verdict.endpoint, verdict.candidate, now)
    return Incident(
        key,
        verdict.endpoint,
        verdict.candidate,
        verdict.prior,
        verdict.as_json(),
        "",
        now,
        now,
        None,
        "",
        verdict.judged_at,
    )


def by_hand(endpoint: str, candidate: str, prior: str | None, reason: str, now: datetime, source: str = "") -> Incident:
    """An incident that no verdict stands behind: a person or another system wanted it."""
    document = {
        **Verdict(endpoint, candidate, prior, State.PAGE, reason, now, now).as_json(),
        "source": source or PERSON,
    }
    key = _identity(endpoint, candidate, now)
    return Incident(key, endpoint, candidate, prior, document, "", now, now, None, "")


def _identity(endpoint: str, candidate: str, now: datetime) -> str:
    return hashlib.sha256(f"{endpoint}\n{candidate}\n{now.isoformat()}".encode()).hexdigest()[:16]


def worst_metric(document: Mapping[str, Any]) -> str:
    """The metric of the finding with the most evidence in a stored verdict; empty when there is none."""
    worst = max(document["findings"], key=lambda finding: finding["e_value"] or 0, default=None)
    return str(worst["metric"]) if worst else ""


def under(document: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """The same alert under a key of its own: an acknowledged alert would not call anybody a second time."""
    return {**document, "dedup_key": f"{document['dedup_key']}-{suffix}"}


def would(plan: Plan) -> str:
    return f"would roll back to version {plan.prior_version} ({plan.path} path): " + "; ".join(plan.diff())


def renewed(incident: Incident, verdict: Verdict) -> Incident:
    """With the judge's newest verdict; whose alert it is stays known."""
    source = {"source": incident.verdict["source"]} if incident.verdict.get("source") else {}
    return replace(incident, verdict=verdict.as_json() | source, prior=verdict.prior)
