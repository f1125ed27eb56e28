"""One look at the evidence -> findings and sentences that a tired person understands (pure)."""

import math
from collections.abc import Sequence

import numpy as np

from lastgood.judge import eprocess, intervals
from lastgood.judge.look import Look
from lastgood.judge.streams import CHANGE, Stream
from lastgood.record.agents import LOOPS, TOOLS
from lastgood.record.verdict import Finding, State
from lastgood.record.words import counted, percent

COMPARED = ("errors", "client", "latency", "ttft", "quality", "scores", "length", "pace", "limit", "content")
_VERBS = {
    "errors": "fails", "quality": "gives bad answers", "client": "refuses requests (4xx)", "limit": "refuses requests above a limit",
    "content": "has requests filtered",
}  # fmt: skip
_TIMES = {
    "latency": ("p95 latency", "latency"),
    "pace": ("p95 per token", "pace"),
    "ttft": ("p95 to the first token", "ttft"),
}


def tests(look: Look) -> list[Finding]:
    """One finding per compared metric that has data, with the evidence of its streams together."""
    findings = []
    for metric in COMPARED:
        streams = [o for o in look.trail.streams if o.metric == metric and o.share > 0]
        streams = [o for o in streams if o.new[look.t, 0, 0] and o.prior[look.t, 0, 0]]
        if streams:
            whole = sum(o.share for o in streams)
            top = max(streams, key=lambda o: o.share * float(o.e[look.t, 0]))
            e = sum(o.share * float(o.e[look.t, 0]) for o in streams) / whole
            findings.append(_finding(look, metric, top, min(e, 1e300)))
    return findings


def _finding(look: Look, metric: str, stream: Stream, e: float) -> Finding:
    evidence, lead = look.evidence, look.lead is not None and look.lead.metric == metric
    new, old = f"version {evidence.candidate}", str(evidence.prior)
    (n1, x1), (n0, x0) = ((float(v[0]), float(v[1])) for v in (stream.new[look.t, 0], stream.prior[look.t, 0]))
    if metric == "scores":
        means = x1 / n1, x0 / n0
        sentence = _score(stream.name.removeprefix("scores "), new, old, means)
        return Finding(metric, sentence, e, None, None, None, float(means[0]), float(means[1]))
    ratio, low, high = intervals.ratio_interval(n1, n0, x1, x0)
    if lead and e >= look.policy.watch_e and metric not in _TIMES:
        ratio, low, high, rates = _since_onset(look, stream)
    else:
        rates = x1 / n1, x0 / n0
    if metric in _TIMES:
        label, name = _TIMES[metric]
        began = look.onset.timestamp() if lead and look.onset else -math.inf
        ours, theirs = (look.quantile(name, arm, 0.95, began) or (0.0, 0.0, 0.0) for arm in (1, 0))
        sentence = f"{new} has {label} {_ms(ours[0])} (between {_ms(ours[1])} and {_ms(ours[2])}) against {_ms(theirs[0])} of {old}"
    elif metric == "length":
        values = [(look.quantile("length", arm, 0.5) or [0.0])[0] for arm in (1, 0)]
        sentence = f"{new} answers with {values[0]:.0f} tokens (median) against {values[1]:.0f} of {old}"
    else:
        times = f"{ratio:.1f} times as often as {old}" if ratio is not None else f"{_how_often(*rates)} {old}"
        between = f" (between {low:.1f} and {high:.1f})" if ratio and low is not None and high is not None else ""
        kind = stream.name.removeprefix("errors").strip()
        verb = f"fails with {kind}" if kind and metric == "errors" else _VERBS[metric]
        sentence = f"{new} {verb} {times}{between}: {percent(rates[0])} against {percent(rates[1])}"
    return Finding(metric, sentence, e, ratio, low, high, float(rates[0]), float(rates[1]))


def _score(name: str, new: str, old: str, means: tuple[float, float]) -> str:
    """A sentence on a mean score; of what agents do, on what was counted."""
    failing, prior = (percent(1 - mean) for mean in means)
    if name == TOOLS:
        return f"{new} has {failing} of a run's tool calls fail against {prior} of {old} (mean over runs)"
    if name == LOOPS:
        return f"{new} loops or hits its step limit in {failing} of its runs against {prior} of {old}"
    return f"{new} scores {means[0]:.2f} on {name} against {means[1]:.2f} of {old}"


def _how_often(new: float, prior: float) -> str:
    return "as often as" if new == prior else "more often than" if new > prior else "less often than"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _since_onset(look: Look, stream: Stream) -> tuple[float | None, float | None, float | None, tuple[float, float]]:
    """(ratio, low, high, rates) since the onset; the limits hold at every look (a confidence sequence)."""
    a = int(np.searchsorted(look.trail.cols.times, look.onset.timestamp())) if look.onset else 0
    a = min(a, look.t)
    before = [side[a - 1, 0] if a else np.zeros(2) for side in (stream.new, stream.prior)]
    (n1, x1), (n0, x0) = stream.new[look.t, 0] - before[0], stream.prior[look.t, 0] - before[1]
    ratio, low, high = intervals.ratio_interval(n1, n0, x1, x0)
    names = [sibling.name for sibling in look.trail.streams if sibling.metric == stream.metric]
    blocks = look.trail.blocks.get(stream.metric)
    if blocks is not None and stream.name in names:
        k = min(names.index(stream.name), blocks.x.shape[-1] - 1)
        n, x = blocks.n[a : look.t + 1].reshape(-1, 2), blocks.x[a : look.t + 1, ..., k].reshape(-1, 2)
        low, high = intervals.ratio_sequence(n[:, 1], n[:, 0], x[:, 1], x[:, 0])
    return ratio, low, (None if high is None or math.isinf(high) else high), (x1 / max(n1, 1), x0 / max(n0, 1))


def reason(look: Look, state: State, findings: Sequence[Finding], vetoes: Sequence[str]) -> str:
    """One sentence with figures."""
    evidence, requests = look.evidence, look.served[0]
    if state is State.HEALTHY:
        return f"version {evidence.candidate} is no worse than {evidence.prior} after {counted(requests, 'request')}"
    first = _leading(look, state, findings)
    if state is State.INCONCLUSIVE or first is None:
        against = f" against {evidence.prior}" if evidence.prior else ", and no prior version to compare with"
        left = "; ".join(f"{counted(count, 'window')} left out: {why}" for why, count in look.left_out.items())
        return f"not enough evidence yet: {counted(requests, 'request')} of version {evidence.candidate}{against}" + (
            f" ({left})" if left else ""
        )
    sentence = first.sentence
    if first.metric in COMPARED and first.metric not in CHANGE:
        raw = float(look.trail.e[look.t, 0])
        sentence += f", since {look.onset:%H:%M:%S}" if look.onset else ""
        sentence += f"; {chance(max(look.e, raw))} is the chance of this much evidence from a healthy version"
        if why := look.doubts.get(first.metric):
            sentence += f"; it does not count for a rollback: {'; '.join(why)}"
    elif first.metric in CHANGE:
        sentence += "; a change, and no harm by itself"
    return sentence + (f"; no rollback: {vetoes[0]}" if vetoes and look.e >= look.case.page_threshold else "")


def _leading(look: Look, state: State, findings: Sequence[Finding]) -> Finding | None:
    """The finding that the verdict rests on."""
    compared = [finding for finding in findings if finding.metric in COMPARED]
    others = [finding for finding in findings if finding.metric not in COMPARED]
    raw = max(look.e, float(look.trail.e[look.t, 0]))
    own = None
    if raw >= look.policy.watch_e and look.lead is not None:
        own = next((finding for finding in compared if finding.metric == look.lead.metric), None)
    if own and (look.e >= look.policy.watch_e or not others):
        return own
    if others:
        return others[0]
    changed = [finding for finding in compared if finding.metric in CHANGE]
    known = changed if state is State.WATCH and changed else compared
    return max(known, key=lambda finding: finding.e_value or 0.0, default=None)


def chance(e: float) -> str:
    """1/e as people say it."""
    return f"1 in {e:,.0f}" if e < 1e9 else "less than 1 in 1,000,000,000"


def outlook(look: Look, state: State) -> str:
    """What would change the verdict."""
    if state is State.ROLL_BACK or look.windows == 0:
        return ""
    if look.e >= look.case.threshold:
        return "a rollback once nothing holds it"
    minutes = _minutes_to(look)
    if minutes is not None:
        return f"about {max(1, math.ceil(minutes))} more minutes at this traffic to decide"
    needed = _minutes_for_double(look)
    if needed is None:
        return ""
    return f"a doubling of errors would take about {counted(needed, 'minute')} to be seen at this traffic"


def _minutes_to(look: Look, back: int = 10) -> float | None:
    """At the pace of the last windows, how long until the threshold; None when evidence does not grow."""
    a = max(0, look.t - back)
    if look.lead is None or look.t == a or look.e < 2:
        return None
    grown = math.log(max(look.e, 1e-9)) - math.log(max(float(look.trail.e[a, 0]), 1e-9))
    times = look.trail.cols.times
    pace = grown / ((times[look.t] - times[a]) / 60)
    return float(math.log(look.case.threshold / look.e) / pace) if pace > 0.01 else None


def _minutes_for_double(look: Look) -> float | None:
    """Expected minutes until twice the prior's error rate is seen: needed evidence / growth per minute."""
    new, prior = look.served
    errors = look.trail.blocks["errors"].x[: look.t + 1, ..., 0].sum((0, 1))
    minutes = (look.trail.cols.until(look.t).timestamp() - look.trail.cols.times[0]) / 60
    if not new or not prior or errors[0] <= 0:
        return None
    rate, pi = errors[0] / prior, new / (new + prior)
    share = 2 * pi / (1 - pi + 2 * pi)
    events = (new * 2 + prior) * rate / minutes
    gain = eprocess.log_e(np.array(pi), np.array(share), np.array(1.0), look.policy.error_tolerance).max()
    return float(math.log(4 * look.case.threshold / look.policy.weights.get("errors", 0.35)) / (events * gain))
