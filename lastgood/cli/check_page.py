"""What `lastgood check` has measured -> its page: the answer, then what it rests on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from markupsafe import Markup

from lastgood.cli.check import HEADER, judged, opinion, version_row
from lastgood.cli.check_paths import Facts
from lastgood.cli.spark_page import Bins
from lastgood.dashboards.report import Answer, Report, Shape, bar, render, widened
from lastgood.judge import Verdict
from lastgood.record.metrics import BY_NAME
from lastgood.record.redact import Capture, Redactor
from lastgood.record.windows import Counts
from lastgood.record.words import counted
from lastgood.settings import Settings
from lastgood.settings.redaction import redactor
from lastgood.tables.drifted import LENGTHS

STEPS = 24
"""How often the versions are judged over the table's time, for the verdict strip."""
MOST_SHAPES, MOST_CHARS = 6, 160
WORDS = {
    "Healthy": "Keep version {new}",
    "Inconclusive": "Wait: version {new} cannot be judged yet",
    "Watch": "Watch version {new}",
    "Page": "Look at version {new} now",
    "RollBack": "Put version {prior} back",
}
DRAWN = {"latency": "p95_ms", "pace": "p95_ms", "quality": "bad_answers"}
"""A finding -> the metric that shows it; of others: errors."""
FAR = ((0.1, "about the same"), (0.2, "slightly different"), (0.4, "clearly different"), (2.0, "very different"))
"""Upper end of a distance -> in words."""
SIDES = {"before": "the day before it came"}
DRIFT_HEADER = ("column", "version", "compared with", "how far apart", "", "distance", "Evidently")
EXAMPLE_HEADER = ("why", "version", "at (UTC)", "took", "request", "asked", "answered")


def page(result: Mapping[str, Any], facts: Facts, settings: Settings) -> str:
    """The page of a result (`check._result`): the endpoint with the worst verdict first."""
    shown: dict[str, Any] = {}
    ordered = sorted(result["endpoints"], key=lambda e: -(e["verdict"].state.severity if e["verdict"] else -1))
    for endpoint in ordered:
        name = endpoint["endpoint"]
        limit = settings.endpoint(name).policy.drift_limit
        shown[f"Versions of {name}"] = (HEADER, [version_row(v, f) for v, f in endpoint["versions"].items()])
        if rows := examples(facts.examples, endpoint, settings):
            shown[f"Requests of {name} to look at"] = (EXAMPLE_HEADER, rows)
        for title, drifted in ((f"Drift of {name}", True), (f"Columns of {name} that did not drift", False)):
            if rows := list(drift_rows([row for row in endpoint["drift"] if row["drifted"] is drifted], limit)):
                shown[title] = (DRIFT_HEADER, rows)
    first = ordered[0]
    own = [window for window in facts.windows if window.endpoint == first["endpoint"]]
    aside = {f"set aside: {why}": counted(number, "row") for why, number in result["rejected"].items()}
    read = {"read": f"{counted(result['rows'], 'row')} ({result['read']})"} | dict.fromkeys(result["notes"], "") | aside
    verdicts = [endpoint["verdict"] for endpoint in ordered if endpoint["verdict"]]
    strip = list(over_time(own, first, facts, settings))
    folded = [title for title in shown if title.endswith("did not drift")]
    title = f"Lastgood check: {result['table']}"
    made = Report(title, headline(verdicts), widened(own), strip or verdicts, (), read, shown)
    return render(
        replace(made, answer=answer(first), shapes=shapes(facts, first), listed=verdicts, folded=frozenset(folded))
    )


def headline(verdicts: Sequence[Verdict]) -> str:
    """One sentence: what to do and why."""
    if not verdicts:
        return "There is no version to judge."
    worst = verdicts[0]
    rest = (
        f" Of {counted(len(verdicts), 'endpoint')} this is the worst; the others stand below."
        if len(verdicts) > 1
        else ""
    )
    return f"{worst.endpoint}: {WORDS[worst.state].format(new=worst.candidate, prior=worst.prior)}. {_sentence(worst.reason.split('; ')[0])}{rest}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def answer(endpoint: Mapping[str, Any]) -> Answer | None:
    """The number and the metric to draw: those of the finding that carries the verdict."""
    verdict: Verdict | None = endpoint["verdict"]
    if verdict is None:
        return None
    worst = verdict.worst
    metric = BY_NAME[DRAWN.get(worst.metric if worst else "", "error_rate")]
    new, prior = (verdict.figures.get(side, {}).get(metric.name) for side in ("new", "prior"))
    against = f"; version {verdict.prior}: {metric.show(prior)}" if verdict.prior else ""
    _, _, sure = verdict.reason.partition("; ")
    return Answer(
        verdict.state,
        metric.show(new),
        f"{metric.label} of version {verdict.candidate}{against}",
        metric.name,
        _sentence(sure) if sure else "",
    )


def over_time(
    own: Sequence[Counts], endpoint: Mapping[str, Any], facts: Facts, settings: Settings
) -> Iterator[Verdict]:
    """What the judge says of ever more of the table: at STEPS moments since the candidate came, the last is the verdict."""
    last: Verdict | None = endpoint["verdict"]
    pair = facts.chosen.get(endpoint["endpoint"])
    if last is None or pair is None:
        return
    width = timedelta(seconds=settings.window_s)
    ends = sorted({window.start + width for window in own if window.start >= pair.since})
    for at in sorted({ends[len(ends) * step // STEPS] for step in range(STEPS)} - {last.judged_at}):
        yield judged(endpoint["endpoint"], pair, own, (), settings, at)
    yield last


def drift_rows(moved: Sequence[Mapping[str, Any]], limit: float) -> Iterator[tuple[Any, ...]]:
    """By distance."""
    for row in sorted(moved, key=lambda row: -(row["distance"] or 0.0))[:20]:
        distance = row["distance"]
        words = row["method"] if distance is None else next(words for end, words in FAR if distance < end)
        number = "-" if distance is None else f"{distance:.2f} (at least {max(0.0, row['low']):.2f})"
        drawn = Markup() if distance is None else bar(distance, limit)
        flag = Markup(" <b>drifted</b>") if row["drifted"] else ""
        against = "prior version" if row["against"] == "prior" else SIDES.get(row["reference"], row["reference"])
        yield (
            row["column"],
            row["model_version"],
            against,
            Markup("{}{}").format(words, flag),
            drawn,
            number,
            opinion(row),
        )


def shapes(facts: Facts, endpoint: Mapping[str, Any]) -> list[Shape]:
    """The two distributions of the candidate's columns that moved most, a column once; of texts their length. None of those that are about the same."""
    verdict: Verdict | None = endpoint["verdict"]
    made: dict[str, Shape] = {}
    for row in sorted(endpoint["drift"], key=lambda row: (not row["drifted"], -(row["distance"] or 0.0))):
        bins = facts.bins.get((row["endpoint"], row["model_version"], row["against"], row["column"]))
        name = LENGTHS.get(row["column"], row["column"])
        if (
            bins
            and (row["drifted"] or (row["distance"] or 0.0) >= FAR[0][0])
            and verdict
            and row["model_version"] == verdict.candidate
            and len(made) < MOST_SHAPES
        ):
            against = (
                f"version {verdict.prior}"
                if row["against"] == "prior"
                else SIDES.get(row["reference"], row["reference"])
            )
            made.setdefault(name, Shape(f"{name}: version {verdict.candidate} against {against}", *_in_order(bins)))
    return list(made.values())


def _in_order(bins: Bins) -> Bins:
    """Values that are numbers by size, where they were counted one by one."""
    labels, numeric, current, reference = bins
    try:
        order = sorted(range(len(labels)), key=lambda i: float("inf") if labels[i] == "other" else float(labels[i]))
    except ValueError:
        return bins
    if numeric:
        return bins
    return [labels[i] for i in order], numeric, [current[i] for i in order], [reference[i] for i in order]


def examples(
    rows: Sequence[Mapping[str, Any]], endpoint: Mapping[str, Any], settings: Settings
) -> list[tuple[str, ...]]:
    """Requests of an endpoint's candidate (of all versions where none is judged) with as much of their texts as its capture keeps.

    A report is passed on: texts that capture keeps whole are redacted all the same.
    """
    name, verdict = endpoint["endpoint"], endpoint["verdict"]
    own = redactor(settings.endpoint(name))
    rule = Redactor(Capture.REDACTED, own.patterns, own.hook) if own.capture is Capture.FULL else own
    made: list[tuple[str, ...]] = []
    for row in rows:
        if row["endpoint"] != name or (verdict and row["model_version"] != verdict.candidate):
            continue
        why = {"failed": f"failed: {row['error_code']}", "flagged": f"answer: {row['why']}"}.get(
            row["kind"], row["kind"]
        )
        asked, answered = (_short(row[side], rule) for side in ("input", "output"))
        at = f"{row['requested_at']:%Y-%m-%d %H:%M:%S}"
        took = BY_NAME["p95_ms"].show(row["latency_ms"])
        made.append((why, row["model_version"] or "?", at, took, row["request_id"], asked, answered))
    return made


def _short(text: str | None, rule: Redactor) -> str:
    """Redacted whole, then cut: a pattern that the cut divides would stay."""
    kept = rule.text(text)
    if kept is None:
        return "-" if text is None else "not kept"
    return f"{kept[:MOST_CHARS]}..." if len(kept) > MOST_CHARS else kept or "(empty)"
