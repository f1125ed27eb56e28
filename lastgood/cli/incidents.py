"""`lastgood incident`, `silence` and `freeze`: what is wrong, who looks at it, and what is paused. Only `explain` asks the workspace."""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lastgood.cli.acts import AsJson, ConfigFile, acting, console, local_name, strict_json
from lastgood.errors import ConfigError, RefusedError
from lastgood.record.words import counted
from lastgood.settings import load

if TYPE_CHECKING:
    from lastgood.alerts.people import People
    from lastgood.alerts.records import Incident
    from lastgood.alerts.store import Store
    from lastgood.settings import Settings

incident = typer.Typer(
    no_args_is_help=True, help="Incidents: list, show, acknowledge, note, close, and why Lastgood does what it does."
)
silence = typer.Typer(no_args_is_help=True, help="Silences: pages of matching endpoints are not sent; rollbacks go on.")
freeze = typer.Typer(no_args_is_help=True, help="Freezes: nothing changes by itself; a person may still roll back.")
IncidentId = Annotated[str, typer.Argument(help="the incident's id, or its beginning")]
Words = Annotated[str, typer.Option("--why", help="the reason, kept in the audit log")]

MOST_HOURS = 8760
"""Of a silence or a freeze."""


def _people(settings: "Settings", store: "Store") -> "People":
    from lastgood.alerts.people import state_only

    return state_only(settings, store, lambda: datetime.now(UTC))


def _opened(config: Path | None) -> "tuple[Settings, Store]":
    from lastgood.alerts.store import open_state

    settings = load(config)
    return settings, open_state(settings)


def _find(store: "Store", number: str) -> "Incident":
    """Errors: RefusedError when none or several begin so."""
    with store.read() as tx:
        matches = [i for i in tx.incidents(limit=10_000) if i.id.startswith(number)]
    if len(matches) != 1:
        how = "no incident begins" if not matches else f"{counted(len(matches), 'incident')} begin"
        raise RefusedError(f"{how} with {number}: `lastgood incident list --all` shows the ids")
    return matches[0]


def _row(i: "Incident") -> dict[str, Any]:
    return {
        "id": i.id, "endpoint": i.endpoint, "version": i.candidate, "state": "ended" if i.resolved_at else "open",
        "opened_at": f"{i.opened_at:%Y-%m-%d %H:%M} UTC", "acknowledged_by": i.acked_by, "reason": i.verdict["reason"],
        "resolution": i.resolution,
    }  # fmt: skip


@incident.command("list")
def list_incidents(
    every: Annotated[bool, typer.Option("--all", help="ended ones too")] = False,
    endpoint: Annotated[str | None, typer.Option(help="only this endpoint's")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """The open incidents, newest first."""
    _, store = _opened(config)
    with store.read() as tx:
        rows = [_row(i) for i in tx.incidents(endpoint, open_only=not every, limit=1000)]
    if as_json:
        print(strict_json(rows))
        return
    for row in rows:
        who = f", {row['acknowledged_by']} is looking" if row["acknowledged_by"] else ""
        console.print(
            f"{row['id']}  {row['state']}  {row['endpoint']} version {row['version']}, since {row['opened_at']}{who}",
            markup=False,
        )
        console.print(f"    {row['resolution'] or row['reason']}", markup=False)
    if not rows:
        console.print("no open incident" if not every else "no incident")


@incident.command("show")
def show(number: IncidentId, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """One incident: what, since when, what was tried, who did what."""
    _, store = _opened(config)
    i = _find(store, number)
    with store.read() as tx:
        last, entries = tx.last_rollback(i.id), tx.audit(i.id)
    document = _row(i) | {
        "note": i.note, "prior": i.prior, "findings": [f["sentence"] for f in i.verdict["findings"]],
        "rollback": {"state": last.state, "reason": last.progress.reason, "diff": last.plan.diff()} if last else None,
        "story": [{"at": e["at"].isoformat(), "who": e["who"], "what": e["what"], "why": e["detail"].get("reason") or e["detail"].get("text", "")}
                  for e in entries],
    }  # fmt: skip
    if as_json:
        print(strict_json(document))
        return
    console.print(f"{i.endpoint} version {i.candidate} ({document['state']}): {i.verdict['reason']}", markup=False)
    for line in (*document["findings"], i.note, i.resolution, *(last.plan.diff() if last else ())):
        if line:
            console.print(f"  {line}", markup=False)
    if last:
        console.print(f"  rollback {last.state}: {last.progress.reason}", markup=False)
    for step in document["story"]:
        console.print(f"{step['at'][:19]} {step['who']}: {step['what']} {step['why']}".rstrip(), markup=False)


@incident.command("brief")
def brief_of(number: IncidentId, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """What you must know now: what, since when, who is hit, what changed, what was tried, what next."""
    from lastgood.alerts.brief import read

    _, store = _opened(config)
    i = _find(store, number)
    with store.read() as tx:
        made = read(tx, i, datetime.now(UTC))
    print(strict_json(made.as_json()) if as_json else made)


@incident.command("patch")
def patch(
    number: IncidentId,
    out: Annotated[Path | None, typer.Option("--out", help="write the diff here, for git apply")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """The change of the file that declares the endpoint: without it the next deploy undoes the rollback."""
    from lastgood.alerts.rollback.git import patch_of

    settings, store = _opened(config)
    i = _find(store, number)
    with store.read() as tx:
        last = tx.last_rollback(i.id)
    if last is None:
        raise RefusedError(f"incident {i.id[:8]} has no rollback")
    made = patch_of(settings, i, last.plan)
    if out:
        out.write_text(made.diff)
    print(strict_json(vars(made)) if as_json else made, end="\n" if as_json else "")


def _answer(store: "Store", number: str, as_json: bool) -> None:
    row = _row(_find(store, number))
    print(strict_json(row) if as_json else f"{row['id']}: {row['state']}")


@incident.command("ack")
def acknowledge(number: IncidentId, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Say that you are looking: PagerDuty and the others hear it too."""
    settings, store = _opened(config)
    _people(settings, store).acknowledge(_find(store, number).id, local_name(settings))
    _answer(store, number, as_json)


@incident.command("note")
def note(
    number: IncidentId,
    text: Annotated[str, typer.Argument(help="the note")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Keep a sentence with the incident."""
    settings, store = _opened(config)
    _people(settings, store).note(_find(store, number).id, local_name(settings), text)
    _answer(store, number, as_json)


@incident.command("close")
def close(number: IncidentId, why: Words, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """End the incident. The same evidence does not open it again at once; a later onset does."""
    settings, store = _opened(config)
    _people(settings, store).close(_find(store, number).id, local_name(settings), why)
    _answer(store, number, as_json)


@incident.command("explain")
def explain(
    endpoint: Annotated[str, typer.Argument(help="the endpoint's name")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """What Lastgood would decide on the endpoint now, and why; changes nothing."""
    with acting(load(config)) as acts:
        decision = acts.explain(endpoint)
    effects = [type(effect).__name__ for effect in decision.effects]
    if as_json:
        print(strict_json({"because": decision.because, "effects": effects}))
        return
    for line in decision.because or ("nothing is open and no judge sees harm",):
        console.print(line, markup=False)
    console.print(f"effects now: {', '.join(effects) or 'none'}")


def _add(kind: str, endpoint: str, hours: float, why: str, as_json: bool, config: Path | None) -> None:
    from lastgood.alerts.records import Pause, PauseKind

    if not 0 < hours <= MOST_HOURS:
        raise ConfigError(f"--hours {hours:g}: expected more than 0, {MOST_HOURS:,} (a year) at most")
    settings, store = _opened(config)
    now = datetime.now(UTC)
    pause = Pause(
        secrets.token_hex(4), PauseKind(kind), endpoint, now, now + timedelta(hours=hours), local_name(settings), why
    )
    _people(settings, store).pause(pause)
    print(strict_json(vars(pause)) if as_json else f"{pause.id}: {endpoint} {pause}")


def _list(kind: str, as_json: bool, config: Path | None) -> None:
    from lastgood.alerts.calendar import Calendar

    settings, store = _opened(config)
    now = datetime.now(UTC)
    with store.read() as tx:
        rows = [pause for pause in (*tx.pauses(now), *Calendar(settings.calendar)(now)) if pause.kind == kind]
    if as_json:
        print(strict_json([vars(pause) for pause in rows]))
        return
    for pause in rows:
        console.print(f"{pause.id}  {pause.endpoint}  {pause}", markup=False)
    if not rows:
        console.print(f"no {kind} is in force or begins within a day")


Pattern = Annotated[str, typer.Argument(help="an endpoint's name or pattern (chat-*)")]
Hours = Annotated[float, typer.Option("--hours", help="for how long")]


def _group(app: typer.Typer, kind: str) -> None:
    @app.command("add")
    def add(endpoint: Pattern, hours: Hours, why: Words, as_json: AsJson = False, config: ConfigFile = None) -> None:
        """Start one now."""
        _add(kind, endpoint, hours, why, as_json, config)

    @app.command("list")
    def rows(as_json: AsJson = False, config: ConfigFile = None) -> None:
        """Those that have not ended, and the calendar's of the next day."""
        _list(kind, as_json, config)

    @app.command("end")
    def end(
        number: Annotated[str, typer.Argument(help="its id")], as_json: AsJson = False, config: ConfigFile = None
    ) -> None:
        """End one before its time."""
        settings, store = _opened(config)
        _people(settings, store).end_pause(number, local_name(settings))
        print(strict_json({"ended": number}) if as_json else f"{number}: ended")


_group(silence, "silence")
_group(freeze, "freeze")


def register(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.add_typer(incident, name="incident")
    app.add_typer(silence, name="silence")
    app.add_typer(freeze, name="freeze")
