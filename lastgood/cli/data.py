"""The commands about jobs and tables: job, baseline, drift, cost, forget, status."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lastgood.cli.acts import AsJson, ConfigFile, strict_json, terminal, writable
from lastgood.errors import ConfigError
from lastgood.record.words import counted, percent
from lastgood.service.tracing import tracing
from lastgood.settings import Settings, load, secret
from lastgood.settings.prices import prices

if TYPE_CHECKING:
    from lastgood.alerts.store import Store as State
    from lastgood.judge.performance import Estimate
    from lastgood.record.windows import Counts

Endpoint = Annotated[str, typer.Argument(help="the endpoint's name")]
MOST_DAYS = 3650
"""So far back a command looks at most."""
baseline = typer.Typer(no_args_is_help=True, help="What drift is measured against: set aside, list, compare.")


def job(
    name: Annotated[str, typer.Argument(help="a job (see the README), or all but maintain, in order: all")],
    config: ConfigFile = None,
    forever: Annotated[
        bool, typer.Option("--forever", help="with `all`: run all jobs again and again until SIGTERM")
    ] = False,
    backfill: Annotated[
        tuple[datetime, datetime] | None,
        typer.Option(metavar="FROM TO", help="rebuild this range of request times (UTC), day by day; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would do and write nothing")] = False,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting, in place of the file's; may be repeated"),
    ] = None,
) -> None:
    """Run a Spark job (or all, in order): takes what is new, may be repeated and killed at any time."""
    from lastgood.service import loop

    settings = load(config, **_given(given or ()))

    def say(report: dict[str, Any]) -> None:
        print(loop.as_line(report), flush=True)

    if forever and (backfill or dry_run or name != "all"):
        raise ConfigError("--forever goes with `all` alone, without --backfill and --dry-run")
    if name != "all":
        loop.known(name, bool(backfill))
    with tracing(settings, "lastgood-job"):
        if forever:
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            loop.forever(settings, say, stop)
            return
        ctx = replace(loop.context(settings), dry_run=dry_run)
        if backfill:
            names = loop.REBUILT if name == "all" else (name,)
            loop.rebuild(ctx, names, (_utc(backfill[0]), _utc(backfill[1])), say)
            return
        if name == "all":
            loop.run_all(ctx, [each for each in loop.JOBS if each != "maintain"], say)
        else:
            say(loop.run_job(ctx, name))


def _given(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE of top-level settings, or of one below (`tables.warehouse_id=...`). Errors: ConfigError."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: expected KEY=VALUE")
        room, dot, name = key.partition(".")
        if dot:
            settings.setdefault(room, {})[name] = value
        else:
            settings[key] = value
    return settings


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(title=Text(title), title_justify="left")
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    terminal().print(table)


@baseline.command("set")
def baseline_set(
    endpoint: Endpoint,
    since: Annotated[datetime, typer.Option("--from", help="UTC")],
    until: Annotated[datetime, typer.Option("--to", help="UTC")],
    version: Annotated[str | None, typer.Option(help="only this model version's requests")] = None,
    note: Annotated[str, typer.Option(help="what it is")] = "",
    config: ConfigFile = None,
) -> None:
    """Set the sample of this time aside as the endpoint's next baseline; drift is measured against the newest."""
    from lastgood.jobs.baseline import set_baseline
    from lastgood.workspace.stores import tables_of

    span = (_utc(since), _utc(until))
    done = set_baseline(tables_of(load(config)), endpoint, span, datetime.now(UTC), version, note)
    print(strict_json(done))


@baseline.command("list")
def baseline_list(
    endpoint: Annotated[str | None, typer.Argument()] = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """The stored baselines."""
    from lastgood.jobs.baseline import list_baselines
    from lastgood.workspace.stores import tables_of

    baselines = list_baselines(tables_of(load(config)), endpoint)
    if as_json:
        print(strict_json(baselines))
        return
    names = ("endpoint", "baseline", "note", "rows", "versions", "first", "last", "columns")
    shown = [[", ".join(row[n]) if isinstance(row[n], list) else row[n] for n in names] for row in baselines]
    _table("baselines", names, shown)


@baseline.command("diff")
def baseline_diff(endpoint: Endpoint, old: int, new: int, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """How baseline NEW differs from OLD, column by column."""
    from lastgood.jobs.baseline import diff
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    limit = settings.endpoint(endpoint).policy.drift_limit
    changes = diff(tables_of(settings), endpoint, old, new, limit, datetime.now(UTC))
    if as_json:
        print(strict_json(changes))
        return
    rows = [
        (r["kind"], r["column"], _cell(r["distance"]), _cell(r["low"]), "drifted" if r["drifted"] else "")
        for r in changes
    ]
    _table(f"{endpoint}: baseline {new} against {old}", ("kind", "column", "distance", "at least", ""), rows)


def _cell(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def drift(
    endpoint: Endpoint,
    html: Annotated[
        Path | None,
        typer.Option(
            callback=writable, help="write it here (else into the storage folder, and the evidence page links it)"
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="also write Evidently's HTML report")] = True,
    config: ConfigFile = None,
) -> None:
    """How far each column of the newest version moved, and Evidently's HTML report, from the same samples as the job's. Starts no Spark."""
    from lastgood.jobs import local_drift
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    store, now = tables_of(settings), datetime.now(UTC)
    done = {"columns": local_drift.measure(store, settings, endpoint, now)}
    if report:
        done |= local_drift.evidently_html(store, settings, endpoint, now, html)
    print(strict_json(done))


def _newest(settings: Settings, endpoint: str, days: float) -> list["Counts"]:
    """Windows of the endpoint's newest days. Errors: ConfigError when there are none."""
    from lastgood.tables import measures
    from lastgood.workspace.stores import tables_of

    windows = measures.windows(tables_of(settings), endpoint)
    if not windows:
        raise ConfigError(f"{settings.storage}: no windows of endpoint {endpoint}; run `lastgood job windows`")
    since = max(window.start for window in windows) - timedelta(days=days)
    return [window for window in windows if window.start > since]


def cost(
    endpoint: Endpoint,
    days: Annotated[float, typer.Option(min=0.04, max=MOST_DAYS, help="how much of the newest traffic")] = 7.0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """What the endpoint's traffic costs in each serving mode, the cheapest that meets its latency target, and when that would change."""
    from lastgood.jobs import offers

    settings = load(config)
    newest = _newest(settings, endpoint, days)
    endpoint_settings = settings.endpoint(endpoint)
    report = offers.report(
        newest,
        settings.window_s,
        prices(settings.prices),
        endpoint_settings.cost,
        endpoint_settings.policy.latency_target_s * 1000,
    )
    if as_json:
        print(strict_json(report))
        return
    offers.show(endpoint, report, lambda line: Console(highlight=False, soft_wrap=True).print(line), _table)


def slices(
    endpoint: Endpoint,
    new: Annotated[str | None, typer.Option(help="version to look at (default: of the newest verdict)")] = None,
    prior: Annotated[str | None, typer.Option(help="version beside it (default: of the newest verdict)")] = None,
    hours: Annotated[float, typer.Option(min=0.1, max=24 * MOST_DAYS, help="how much of the newest traffic")] = 6.0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Which requests the new version hurts: team, language, length of the prompt, hour and what else they say, and pairs of these."""
    from lastgood.tables import measures
    from lastgood.tables.hurt import hurt
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    store = tables_of(settings)
    verdicts = [v for v in measures.verdicts(store) if v.endpoint == endpoint and v.prior]
    with _state(settings) as state:  # the service's own verdicts are there, those of the jobs in the tables
        if state is not None:
            with state.read() as tx:
                verdicts += [v for v in tx.verdicts(endpoint) if v.prior]
    newest = max(verdicts, key=lambda verdict: verdict.judged_at, default=None)
    if newest is not None:
        new, prior = new or newest.candidate, prior or newest.prior
    if new is None or prior is None:
        raise ConfigError(f"{endpoint}: no verdict names two versions; give --new and --prior")
    since = datetime.now(UTC) - timedelta(hours=hours)
    faults = settings.endpoint(endpoint).policy.rollback_faults
    named = hurt(store, endpoint, new, prior, since, faults)
    if as_json:
        print(strict_json({"endpoint": endpoint, "new": new, "prior": prior, "slices": [vars(each) for each in named]}))
        return
    if not named:
        print(f"{endpoint}: no part of version {new}'s requests fails more often than version {prior}'s")
    for each in named[:10]:
        print(each.sentence)


def outcomes(
    endpoint: Endpoint,
    days: Annotated[float, typer.Option(min=0.04, max=MOST_DAYS, help="how much of the newest traffic")] = 7.0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """What labels and feedback say of the newest version beside the one before it: accuracy, precision, recall, error, thumbs, with intervals."""
    from lastgood.jobs.deployed import pairs_of
    from lastgood.judge.outcomes import report

    newest = _newest(load(config), endpoint, days)
    pair = pairs_of(newest).get(endpoint)
    if pair is None:
        raise ConfigError(f"{endpoint}: no model version is known; see sources.entities_table in the settings")
    result = {"endpoint": endpoint} | report(newest, pair.candidate, pair.prior)
    if as_json:
        print(strict_json(result))
        return
    rows = [
        (
            outcome["outcome"],
            *(_shown(outcome[name]) for name in ("new", "prior", "difference")),
            outcome["verdict"] or "",
        )
        for outcome in result["outcomes"]
    ]
    shares = ", ".join(percent(share) for share in result["labelled"].values())
    title = f"{endpoint}: version {pair.candidate} beside {pair.prior or '-'} ({result['prior_seen'] or 'not seen'}); labelled {shares}"
    _table(title, ("outcome", "new", "prior", "difference", ""), rows)


def performance(
    endpoint: Endpoint,
    days: Annotated[float, typer.Option(min=0.04, max=MOST_DAYS, help="how many of the newest days")] = 30.0,
    version: Annotated[str | None, typer.Option(help="only this model version")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """How good a classifier or regressor is, by version and day: estimated where labels are not there yet, with 95% intervals, or why it cannot be
    known. The job `performance` makes the estimates; this starts no Spark."""
    from lastgood.tables import estimated
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    if settings.endpoint(endpoint).performance is None:
        raise ConfigError(f"{endpoint}: nothing is estimated; set endpoints.{endpoint}.performance in the settings")
    since = datetime.now(UTC) - timedelta(days=days)
    estimates = estimated.by_day(tables_of(settings), since, endpoint, version).get(endpoint, [])
    if as_json:
        print(strict_json({"endpoint": endpoint, "days": [estimated.plain(day) for day in estimates]}))
        return
    names = [metric.metric for metric in estimates[0].metrics] if estimates else []
    rows = [
        (day.model_version, f"{day.day}{' (reference)' if day.reference else ''}", day.rows, percent(day.metrics[0].labelled),
         *(_estimated(metric) for metric in day.metrics), day.why)
        for day in estimates
    ]  # fmt: skip
    _table(
        f"{endpoint}: estimated performance", ("version", "day", "answers", "labelled", *names, "cannot be known"), rows
    )


def changes(
    endpoint: Endpoint,
    version: Annotated[
        str | None, typer.Option(help="only this version (VERSION~HASH), with its edits line by line")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """What an endpoint was asked with beside the model, and when and by whom that was changed: the ledger of prompts, tools, parameters, routes
    and packages that make a version (setting versions_by). Starts no Spark."""
    from lastgood.record.contents import hash_of
    from lastgood.tables import edits as ledger
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    if not settings.endpoint(endpoint).versions_by:
        raise ConfigError(
            f"{endpoint}: nothing tells its versions apart but the registry; set endpoints.{endpoint}.versions_by in the settings"
        )
    store = tables_of(settings)
    told = [
        each
        for each in ledger.every(ledger.changes(store, endpoint))
        if version is None or each.change.content == hash_of(version)
    ]
    if version is not None and not told:
        raise ConfigError(f"{endpoint}: no change {version}; `lastgood changes {endpoint}` lists them")
    rare = ledger.rare(store, datetime.now(UTC)).get(endpoint, 0)
    if as_json:
        print(
            strict_json(
                {"endpoint": endpoint, "changes": [ledger.plain(each) for each in told], "too_rare_of_a_day": rare}
            )
        )
        return
    _table(f"{endpoint}: what it was asked with", ("since", "version", "before", "what"), [
        (f"{each.change.since:%Y-%m-%d %H:%M:%S}", each.version, each.before, each.sentence) for each in told
    ])  # fmt: skip
    for each in told if version else ():
        for edit in each.edits:
            print(f"--- {edit.part}", *(edit.lines or ("(its text is not kept)",)), sep="\n")
    if rare:
        print(
            f"{counted(rare, 'request')} of the last day are asked with what is too rare to be a version: see the runbook LastgoodContentsRare"
        )


def _estimated(metric: "Estimate") -> str | None:
    return None if metric.value is None else f"{metric.value:.4g} ({metric.low:.4g} to {metric.high:.4g})"


def _shown(estimate: dict[str, Any] | None) -> str | None:
    """A figure with its interval, and of how many."""
    if estimate is None:
        return None
    return f"{estimate['mean']:.4g} ({estimate['low']:.4g} to {estimate['high']:.4g})" + (
        f", n {estimate['n']:,}" if "n" in estimate else ""
    )


def forget(
    requester: Annotated[str, typer.Option(help="who, exactly as requests name them")],
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count and delete nothing")] = False,
) -> None:
    """Delete a requester's requests, bodies, scores and samples from all tables."""
    from lastgood.jobs.maintain import forget as run
    from lastgood.service import loop

    done = run(replace(loop.context(load(config)), dry_run=dry_run), requester)
    print(strict_json({"requester": requester, "rows": done, "dry_run": dry_run}))


@contextmanager
def _state(settings: Settings) -> Iterator["State | None"]:
    """The operational state; None where none is named, or nothing has been written to it: it is not made to be looked at."""
    from lastgood.alerts.store import open_state

    try:
        url = settings.state
    except ConfigError:
        yield None
        return
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        yield None
        return
    with closing(open_state(settings)) as state:
        yield state


def _decisions(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Open incidents, and what is paused, from the operational state where there is one."""
    from lastgood.alerts.calendar import Calendar

    now = datetime.now(UTC)
    try:
        _ = settings.state
    except ConfigError as error:
        return {"operational state": [{"problem": str(error)}]}
    with _state(settings) as state:
        if state is None:
            return {}
        with state.read() as tx:
            incidents, switch = tx.incidents(open_only=True, limit=1000), tx.kill_switch()
            pauses = [pause for pause in (*tx.pauses(now), *Calendar(settings.calendar)(now)) if pause.in_force(now)]
    held = [{"endpoint": "*", "what": f"kill switch on ({switch.who}: {switch.why})"}] if switch.on else []
    return {
        "open incidents": [
            {"incident": i.id[:8], "endpoint": i.endpoint, "version": i.candidate, "since": i.opened_at, "acknowledged": i.acked_by} for i in incidents
        ],
        "paused": [*held, *({"endpoint": pause.endpoint, "what": str(pause)} for pause in pauses)],
    }  # fmt: skip


def _receiver(settings: Settings) -> list[dict[str, Any]]:
    """What the service's receiver took and refused since it started; nothing where no service answers."""
    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    token = secret(settings.web.metrics_token_env)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(
            f"{settings.web.base_url.rstrip('/')}/metrics", headers=headers, timeout=5
        ).raise_for_status()
        families = {family.name: family.samples for family in text_string_to_metric_families(answer.text)}
    except (httpx.HTTPError, ValueError):
        return []
    if "lastgood_spans_accepted" not in families:
        return []
    refused = {
        sample.labels["reason"]: int(sample.value)
        for sample in families.get("lastgood_exports_refused", ())
        if sample.name.endswith("_total")
    }
    totals = {name: int(families[f"lastgood_{name}"][0].value) for name in ("spans_accepted", "spool_bytes")}
    return [totals | {"exports_refused": {reason: n for reason, n in refused.items() if n}}]


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Tables (size, files, age), how far behind their source the jobs are, the newest verdict of each endpoint, open incidents, what is
    paused, and what the running service took and refused. Starts no Spark."""
    from lastgood.tables.health import health
    from lastgood.workspace.stores import tables_of

    settings = load(config)
    facts = health(tables_of(settings), datetime.now(UTC))
    facts |= _decisions(settings)
    facts["receiver"] = _receiver(settings)
    if as_json:
        print(strict_json(facts))
        return
    if not any(facts.values()):
        Console(soft_wrap=True).print(
            f"nothing is in {settings.storage} yet: run `lastgood serve` or `lastgood job all`, or `lastgood doctor` to see why"
        )
    for title, rows in facts.items():
        if rows:
            _table(title, list(rows[0]), [list(row.values()) for row in rows])


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (job, drift, cost, outcomes, performance, changes, slices, forget, status):
        app.command()(command)
    app.add_typer(baseline, name="baseline")
