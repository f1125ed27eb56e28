"""The way forward: `lastgood release check` before, `lastgood promote` step by step, with the judge between the steps."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lastgood.cli.acts import (
    AsJson,
    ConfigFile,
    EndpointName,
    Why,
    Yes,
    acting,
    banner,
    console,
    follow,
    me,
    notes,
    outcome,
    show,
    strict_json,
)
from lastgood.errors import RefusedError
from lastgood.record.words import counted, percent
from lastgood.settings import Settings, load

if TYPE_CHECKING:
    from lastgood.alerts.controller import Controller
    from lastgood.alerts.records import Check, Rollback
    from lastgood.alerts.rehearse import Limits, Rehearsed

release = typer.Typer(no_args_is_help=True, help="The release checklist.")


def _show_path(settings: Settings, endpoint: str, as_json: bool) -> None:
    """How long each step of the policy, and of a few other shares, needs to see more failures (power.worse_rate) and latency x1.3 at the
    traffic of the newest day."""
    from lastgood.judge import power
    from lastgood.tables import measures
    from lastgood.workspace.stores import tables_of

    policy, now = settings.endpoint(endpoint).policy, datetime.now(UTC)
    counts = measures.windows(tables_of(settings), endpoint, now - timedelta(days=1))
    given = power.of_windows(counts, settings.window_s)
    patience = policy.promote_timeout_s / 60
    shares = sorted({share for share in (1, 5, 10, 25, 50, *policy.promote_shares) if share < 100})
    steps = [power.step(given, share, policy, int(min(max(patience, 60), 480)), 21, 1) for share in shares]
    path = power.fastest(steps, patience)
    if as_json:
        print(strict_json({"steps": [vars(step) for step in steps], "path": [*(step.share for step in path), 100]}))
        return
    console.print(f"{counted(given.per_minute, 'request')} a minute, {percent(given.errors)} fail", highlight=False)
    for step in steps:
        times = [
            f"{v:.0f} min" if v < float("inf") else "not in time" for v in (step.errors_minutes, step.latency_minutes)
        ]
        failures = f"{percent(power.worse_rate(given, policy))} failures"
        mark = "  (policy)" if step.share in policy.promote_shares else ""
        console.print(
            f"{step.share:>3}%: {failures} {times[0]}, latency x1.3 {times[1]}, {counted(step.harmed, 'request')} until then{mark}",
            highlight=False,
        )
    shown = " -> ".join(f"{step.share}% for {min(step.minutes, patience):.0f} min" for step in path)
    console.print(f"fastest path that detects: {shown} -> 100%", highlight=False)


def rehearsed(
    acts: "Controller", settings: Settings, endpoint: str, version: str, limits: "Limits", on: str | None
) -> "Rehearsed":
    """Errors: as alerts.rehearse.Rehearsal.run."""
    from lastgood.alerts.rehearse import Rehearsal
    from lastgood.cli.judging import Judging
    from lastgood.workspace.stores import tables_of

    store = tables_of(settings)
    with ExitStack() as clients:
        judging = Judging(settings, store, endpoint, version, acts.clock, clients)
        done = Rehearsal(acts, store, me(acts), judging if judging.scorers else None).run(endpoint, version, limits, on)
        return replace(done, ended="; ".join(filter(None, (done.ended, *judging.notes))))


def rehearse(
    endpoint: EndpointName,
    version: Annotated[str, typer.Argument(help="the version to rehearse: ready, and at 0% of the traffic")],
    on: Annotated[
        str | None, typer.Option("--on", help="the endpoint that it is on, where that is another (staging)")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, max=500, help="recorded requests to send again")] = 200,
    per_second: Annotated[
        float, typer.Option("--per-second", min=0.01, max=100, help="of them in a second, each to both versions")
    ] = 2.0,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="ends when both versions' answers have taken so many")
    ] = 500_000,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Send recorded requests to a version that nobody uses yet, and say what is worse than the one that serves; exit code 1 where something is."""
    from lastgood.alerts.rehearse import Limits

    settings = load(config)
    with acting(settings) as acts:
        banner(acts, as_json)
        done = rehearsed(acts, settings, endpoint, version, Limits(requests, per_second, tokens), on)
        if as_json:
            print(strict_json(asdict(done)))
        else:
            _show_rehearsal(done)
        if done.outcome.state == "worse":
            raise typer.Exit(1)


def _show_rehearsal(done: "Rehearsed") -> None:
    console.print(
        f"version {done.version} beside {done.prior}: {done.outcome.state}. {done.outcome.sentence}", markup=False
    )
    for finding in done.outcome.findings:
        console.print(
            f"  {finding.metric}: {finding.sentence} (p {finding.p:.2g}){' WORSE' if finding.worse else ''}",
            markup=False,
        )
    for why, count in done.left_out.items():
        console.print(f"  not sent: {count} requests that {why}", markup=False)
    console.print(f"  {done.tokens:,} tokens{f'; {done.ended}' if done.ended else ''}", markup=False)


@release.command("check")
def check(endpoint: EndpointName, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Run the checklist for real, a drill included; exit code 1 when a row fails."""
    from lastgood.alerts.rehearse import Limits
    from lastgood.alerts.release import Checklist
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    with acting(settings) as acts:
        banner(acts, as_json)

        def say(line: str) -> None:
            if not as_json:
                console.print(f"drill: {line}", style="dim", markup=False)

        def drill(rollback: "Rollback") -> "Rollback":
            return follow(acts, rollback, say)

        def rehearse_first(name: str, version: str, on: str) -> object:
            limits = Limits(settings.endpoint(name).release.rehearse_requests)
            return rehearsed(acts, settings, name, version, limits, on)

        done = Checklist(acts, tables_of(settings), drill, me(acts), rehearse_first).run(endpoint)
        if as_json:
            print(strict_json({**vars(done), **done.document, "document": None}))
        else:
            _table(done)
        if not done.passed:
            raise typer.Exit(1)


def _table(done: "Check") -> None:
    shown = Table("", "check", "found", "how to fix it", title=f"{done.endpoint} version {done.version}")
    for row in done.document["rows"]:
        mark = "[green]ok[/]" if row["passed"] else "[red]no[/]"
        shown.add_row(mark, row["name"], row["observed"], row["fix"])
    console.print(shown)
    console.print("passed" if done.passed else "not passed: this version cannot be promoted")


def promote(
    endpoint: EndpointName,
    version: Annotated[str, typer.Argument(help="the version to promote")],
    again: Annotated[bool, typer.Option("--again", help="although it was rolled back before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the next step and do nothing")] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="how long each step needs to see a regression, and the fastest path")
    ] = False,
    yes: Yes = False,
    why: Why = "asked for at the command line",
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Give a version that passed staging more and more traffic; goes on where it stopped. The prior version stays ready."""
    from lastgood.alerts.promote import allowed, next_step, registry_tags

    settings = load(config)
    own_settings = settings.endpoint(endpoint)
    if plan_only:
        _show_path(settings, endpoint, as_json)
        return
    with acting(settings) as acts:
        banner(acts, as_json)
        steps: list[dict[str, object]] = []
        confirmed = yes
        while True:
            now = acts.workspace.endpoint(endpoint)
            tags = registry_tags(acts.workspace, now, version) if own_settings.registry_alias and not again else {}
            with acts.store.read() as tx:
                allowed(tx, endpoint, version, own_settings, acts.clock(), again, tags)
                kept = tx.snapshot(endpoint, version)
            plan = next_step(now, version, own_settings, kept, acts.clock())
            if plan is None:
                break
            if not as_json:
                show(plan, notes(acts, now))
            if dry_run:
                steps.append({"diff": plan.diff()})
                break
            if own_settings.release.rehearse and not now.share(version):
                _must_be_as_good(acts, settings, endpoint, version, as_json)
            if not confirmed and (as_json or not typer.confirm("Do it?")):
                raise RefusedError("not confirmed: nothing was changed (--yes answers yes)")
            confirmed = True
            started = acts.people.start(plan, me(acts), why)
            done = follow(
                acts, started, (lambda line: None) if as_json else (lambda line: console.print(line, markup=False))
            )
            steps.append(outcome(done))
            if done.state != "Done":
                break
        stopped = bool(steps) and steps[-1].get("state") not in ("Done", None)
        if as_json:
            print(strict_json({"endpoint": endpoint, "version": version, "steps": steps, "promoted": not stopped}))
        elif not dry_run:
            console.print(f"version {version} {'stopped' if stopped else 'takes all traffic'}")
        if stopped:
            raise typer.Exit(1)


def _must_be_as_good(acts: "Controller", settings: Settings, endpoint: str, version: str, as_json: bool) -> None:
    """Errors: RefusedError where the rehearsal before the first step says that the version is worse, or too little; as the rehearsal's."""
    from lastgood.alerts.rehearse import Limits

    own = settings.endpoint(endpoint)
    absent = (
        acts.workspace.endpoint(endpoint).entity(version) is None
    )  # the first step deploys it: until then it is on staging alone
    done = rehearsed(
        acts, settings, endpoint, version, Limits(own.release.rehearse_requests), own.staging if absent else None
    )
    if not as_json:
        _show_rehearsal(done)
    if done.outcome.state != "as good":
        raise RefusedError(f"the rehearsal of version {version} is {done.outcome.state}: {done.outcome.sentence}")


def register(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command()(rehearse)
    app.command()(promote)
    app.add_typer(release, name="release")
