"""The commands that act: rollback, promote, release, audit, kill. A person's name stands behind each; all are audited."""

import getpass
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax

from lastgood.errors import ConfigError, LastgoodError, RefusedError
from lastgood.settings import Settings, load

if TYPE_CHECKING:
    from lastgood.alerts.controller import Controller
    from lastgood.alerts.records import Rollback
    from lastgood.alerts.rollback.plan import Plan
    from lastgood.alerts.store import Store
    from lastgood.workspace import Endpoint

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="settings file (default: conf/lastgood.yaml when there)")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
WIDE = 240
"""Characters of a line where no terminal says how many it has."""


def writable(path: Path | None) -> Path | None:
    """The path of a file to be written, looked at before the work. Errors: ConfigError."""
    if path is None or path == Path("-"):
        return path
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {folder}"
        raise ConfigError(f"{path}: {what}; name a file in a folder that exists")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{path}: may not be written")
    return path


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", callback=writable, help="write the result as one JSON document ('-': print it and nothing else)"
    ),
]
HtmlFile = Annotated[Path | None, typer.Option("--html", callback=writable, help="write a self-contained report")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]
Why = Annotated[str, typer.Option("--why", help="the reason, kept in the audit log")]
console = Console(highlight=False, soft_wrap=True)
EndpointName = Annotated[str, typer.Argument(help="the endpoint's name")]


@contextmanager
def acting(settings: Settings) -> "Iterator[Controller]":
    """The alerting layer, as the service has it, while a command runs."""
    from lastgood.service import serve
    from lastgood.workspace.stores import tables_of

    with closing(serve.controller(settings, tables_of(settings))) as controller:
        yield controller


def people(json_file: Path | None) -> Console:
    """Where a command speaks to people: nowhere when it prints JSON."""
    return terminal(quiet=json_file == Path("-"))


def terminal(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that cuts nothing where no terminal limits its width."""
    made = Console(stderr=stderr, quiet=quiet, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDE
    return made


def strict_json(value: object, indent: int | None = None) -> str:
    """A JSON document: what is no JSON value as text, NaN and the infinities, which JSON does not have, as null."""
    try:
        return json.dumps(value, default=str, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), default=str, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def write_json(json_file: Path | None, result: object) -> None:
    """`--json FILE` as commands understand it."""
    if json_file == Path("-"):
        print(strict_json(result))
    elif json_file:
        json_file.write_text(strict_json(result, indent=1) + "\n")


def state(config: Path | None) -> "Store":
    """Only the operational state: no workspace is asked."""
    from lastgood.alerts.store import open_state

    return open_state(load(config))


def me(acts: "Controller") -> str:
    """Who acts: the workspace's user, else this machine's."""
    try:
        return acts.workspace.me()
    except LastgoodError:
        return getpass.getuser()


def banner(acts: "Controller", as_json: bool) -> None:
    """The kill switch, silences and freezes show on every surface."""
    with acts.store.read() as tx:
        switch, pauses = tx.kill_switch(), acts.in_force(tx)
    if as_json:
        return
    if switch.on:
        console.print(f"The kill switch is on ({switch.who}: {switch.why}).", style="bold red", markup=False)
    for pause in pauses:
        console.print(f"{pause.endpoint}: {pause}", style="yellow", markup=False)


def follow(acts: "Controller", rollback: "Rollback", say: Callable[[str], None], every_s: float = 1.0) -> "Rollback":
    """Take part in moving it on until it has ended, or only late telemetry is missing; `say` gets each new state or reason."""
    shown = ""
    patience = timedelta(seconds=acts.settings.endpoint(rollback.plan.endpoint).policy.verify_timeout_s)
    while True:
        acts.tick()
        acts.send()
        with acts.store.read() as tx:
            rollback = tx.rollback(rollback.id) or rollback
        progress = rollback.progress
        state_and_reason = f"{rollback.state}: {progress.reason}".rstrip(": ")
        if state_and_reason != shown:
            say(state_and_reason)
            shown = state_and_reason
        if rollback.state.ended or not rollback.state.under_way:
            return rollback
        by_telemetry = rollback.plan.kind == "rollback" and progress.waits_for_telemetry
        if by_telemetry and acts.clock() - progress.since >= patience:
            say("the service verifies it when telemetry arrives")
            return rollback
        time.sleep(every_s)


def outcome(rollback: "Rollback") -> dict[str, Any]:
    plan, progress = rollback.plan, rollback.progress
    return {
        "id": rollback.id, "endpoint": plan.endpoint, "from": plan.bad_version, "to": plan.prior_version, "path": plan.path,
        "state": progress.state, "reason": progress.reason, "who": progress.who, "diff": plan.diff(), "reasons": plan.reasons,
    }  # fmt: skip


def notes(acts: "Controller", endpoint: "Endpoint") -> list[str]:
    """What a person should know before the endpoint is changed."""
    hints = []
    if endpoint.creator:
        refusal = (
            f"the endpoint was created by {endpoint.creator}: if that principal has gone, the workspace refuses every"
        )
        hints.append(f"{refusal} update with PERMISSION_DENIED")
    try:
        held, who = acts.workspace.permissions(endpoint.name), acts.workspace.me()
        if held and who in held and held[who] != "CAN_MANAGE":
            hints.append(f"{who} holds {held[who]}, an update needs CAN_MANAGE")
    except LastgoodError as error:
        hints.append(f"permissions cannot be read: {error}")
    if bundled := sorted(key for key in endpoint.tags if "bundle" in key.lower()):
        hints.append(f"tagged {', '.join(bundled)}: a bundle that manages it deploys the bad version again; fix it too")
    return hints


def show(plan: "Plan", hints: list[str]) -> None:
    """A plan for people: why, what, the diff of the whole config."""
    console.print(f"{plan.kind} of {plan.endpoint} ({plan.path} path): {plan.bad_version} -> {plan.prior_version}")
    for line in (*plan.reasons, *plan.diff()):
        console.print(f"  {line}", markup=False)
    console.print(Syntax(plan.config_diff(), "diff", background_color="default", word_wrap=True))
    for line in hints:
        console.print(f"note: {line}", markup=False)


def rollback(
    endpoint: EndpointName,
    to: Annotated[str | None, typer.Option("--to", help="the version to go back to (default: the best known)")] = None,
    leave: Annotated[
        str | None, typer.Option("--from", help="the version to leave (default: the newest, where that is clear)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan and do nothing")] = False,
    yes: Yes = False,
    why: Why = "asked for at the command line",
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Put the last good version back: shows the plan first, then moves the traffic and verifies it."""
    from lastgood.alerts.rollback.leave import Leaving

    with acting(load(config)) as acts:
        banner(acts, as_json)
        now = acts.workspace.endpoint(endpoint)
        leaving, aliases = Leaving(leave, "") if leave else acts.leaving(now), acts.aliases(now)
        because = f"{why}; leaving {leaving.why}" if leaving.why else why
        with acts.store.read() as tx:
            plan = acts.plan(tx, now, leaving.version, aliases, why=because, wanted=to)
        hints = notes(acts, now)
        if not as_json:
            show(plan, hints)
        if dry_run:
            if as_json:
                document = plan.as_dict() | {"entities": None, "diff": plan.diff(), "notes": hints}
                print(strict_json(document))
            return
        if not yes and (as_json or not typer.confirm("Do it?")):
            raise RefusedError("not confirmed: nothing was changed (--yes answers yes)")
        done = acts.people.start(plan, me(acts), why)
        done = follow(acts, done, (lambda line: None) if as_json else (lambda line: console.print(line, markup=False)))
        if as_json:
            print(strict_json(outcome(done)))
        if done.state not in ("Done", "Proposed"):
            raise typer.Exit(1)


kill = typer.Typer(no_args_is_help=True, help="The kill switch: while on, nothing is sent to the workspace.")


@kill.command("on")
def kill_on(why: Annotated[str, typer.Option("--why")], as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Stop all action at once, here and in every running service."""
    _switch(True, why, as_json, config)


@kill.command("off")
def kill_off(why: Why = "over", as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Let rollbacks start and go on again."""
    _switch(False, why, as_json, config)


def local_name(settings: Settings) -> str:
    """This machine's user, as approvals and audit know the person: for commands that ask no workspace."""
    from lastgood.alerts.identity import identity

    return identity(getpass.getuser(), settings.web.identities)


def _switch(on: bool, why: str, as_json: bool, config: Path | None) -> None:
    """Needs the state store and nothing else: no workspace, no secrets."""
    from lastgood.alerts.people import switch
    from lastgood.alerts.store import open_state

    settings = load(config)
    who = local_name(settings)
    switch(open_state(settings), on, who, why, datetime.now(UTC))
    print(strict_json({"on": on, "who": who, "why": why}) if as_json else f"kill switch {'on' if on else 'off'}")


@kill.command("status")
def kill_status(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Whether it is on, and who turned it."""
    store = state(config)
    with store.read() as tx:
        switch = tx.kill_switch()
    sentence = f"{'on' if switch.on else 'off'} ({switch.who}: {switch.why})" if switch.who else "off"
    print(strict_json(vars(switch)) if as_json else sentence)


audit = typer.Typer(no_args_is_help=True, help="The append-only log of who did what, when, why, on which evidence.")


@audit.command("anchor")
def audit_anchor(
    out: Annotated[Path | None, typer.Option("--out", help="append it to this file too")] = None,
    config: ConfigFile = None,
) -> None:
    """Print the newest entry's number and hash as one JSON line, to keep outside the database."""
    from lastgood.alerts.anchor import anchor_line, append

    with state(config).read() as tx:
        line = anchor_line(tx.audit_head(), datetime.now(UTC))
    if out:
        append(out, line)
    print(line, end="")


@audit.command("verify")
def audit_verify(
    anchors: Annotated[
        Path | None, typer.Option("--anchors", help="file of anchors (default: audit_anchor.file)")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Find changed, removed or reordered entries, and entries that are not those that were anchored; exit code 5 when there are any."""
    from lastgood.alerts.anchor import broken as not_as_anchored
    from lastgood.alerts.anchor import read
    from lastgood.alerts.store import open_state

    settings = load(config)
    path = anchors or settings.audit_anchor.file
    kept = read(path) if path and (anchors or path.exists()) else []
    with open_state(settings).read() as tx:
        broken, entries = tx.verify(), tx.audit()
    broken += not_as_anchored(entries, kept)
    head = entries[-1]["hash"] if entries else ""
    if as_json:
        print(strict_json({"entries": len(entries), "problems": broken, "head": head, "anchors": len(kept)}))
    else:
        for line in broken or [f"{len(entries)} entries, unbroken; the newest hash is {head or '-'}"]:
            console.print(line, markup=False)
    if broken:
        raise typer.Exit(5)


@audit.command("show")
def audit_show(
    endpoint: Annotated[str | None, typer.Option(help="only this endpoint's")] = None,
    last: Annotated[int, typer.Option(help="only so many")] = 50,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """The entries, oldest first."""
    store = state(config)
    with store.read() as tx:
        entries = [e for e in tx.audit() if endpoint is None or e["detail"].get("endpoint") == endpoint][-last:]
        switch = tx.kill_switch()
    if as_json:
        print(strict_json([dict(e) for e in entries]))
        return
    if switch.on:
        console.print(f"The kill switch is on ({switch.who}: {switch.why}).", style="bold red", markup=False)
    for e in entries:
        facts = ", ".join(f"{key}: {value}" for key, value in e["detail"].items() if value)
        console.print(f"{e['seq']:>5} {e['at']:%Y-%m-%d %H:%M:%S} {e['who']}: {e['what']} ({facts})", markup=False)


def register(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command()(rollback)
    app.add_typer(kill, name="kill")
    app.add_typer(audit, name="audit")
