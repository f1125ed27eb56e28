"""What another system's alerts say of endpoints -> incidents with evidence and a link, resolved when the alert is."""

from collections.abc import Sequence

from lastgood.alerts import messages
from lastgood.alerts.controller import Controller
from lastgood.alerts.notify.alertmanager import Reported
from lastgood.alerts.tx import Tx
from lastgood.errors import ConfigError, RefusedError
from lastgood.workspace import Endpoint

SOURCE = "Alertmanager"


def take(acts: Controller, reports: Sequence[Reported]) -> dict[str, list[str]]:
    """Open or resolve incidents; the same report twice changes nothing. {"taken": keys, "unknown": endpoints}.

    Errors: TransientError (send the group again).
    """
    taken, unknown = [], []
    for report in reports:
        try:
            endpoint = acts.workspace.endpoint(report.endpoint)
        except ConfigError:
            unknown.append(report.endpoint)
            continue
        version = report.version or _suspect(acts, endpoint)
        with acts.store.begin() as tx:
            (_fires if report.firing else _ends)(acts, tx, report, version)
        taken.append(report.key)
    return {"taken": taken, "unknown": unknown}


def _suspect(acts: Controller, endpoint: Endpoint) -> str:
    """The version an alert that names none is about: the one a rollback would leave; "?" where that is unclear."""
    try:
        return acts.leaving(endpoint).version
    except RefusedError:
        return "?"


def _fires(acts: Controller, tx: Tx, report: Reported, version: str) -> None:
    now, incident = acts.clock(), tx.find_incident(report.endpoint, version)
    if incident is None:
        incident = messages.by_hand(report.endpoint, version, None, report.summary, now, SOURCE)
        tx.open_incident(incident)
        tx.record(now, SOURCE, "opened", incident=incident.id, endpoint=report.endpoint, reason=report.summary)
    acts.teller.tell(tx, incident, f"report:{report.key}", f"{SOURCE}: {report.summary}")


def _ends(acts: Controller, tx: Tx, report: Reported, version: str) -> None:
    """An incident that the judge sees too stays open until the judge says healthy."""
    for incident in tx.incidents(report.endpoint, open_only=True):
        told = acts.teller.told(tx, incident, f"report:{report.key}")
        if incident.verdict.get("source") == SOURCE and (incident.candidate == version or told):
            acts.teller.resolve(tx, incident, f"{SOURCE} resolved: {report.summary}")
