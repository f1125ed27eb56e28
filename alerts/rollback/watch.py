"""What else can verify a shift: the judge's own word (promotions), and requests sent on purpose (drills)."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.store import Store
from lastgood.record.contents import base
from lastgood.record.verdict import State
from lastgood.record.words import counted
from lastgood.settings import Settings
from lastgood.workspace import Workspace

DRILL_REQUESTS = 20


class Judged:
    """Verifies a promotion's step: the judge must call the promoted version healthy, from evidence after the step."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._store, self._settings, self._clock = store, settings, clock

    def recovery(self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str) -> Recovery:
        """`prior_version` is the one that is promoted."""
        step = timedelta(seconds=self._settings.endpoint(endpoint).policy.promote_step_s)
        with self._store.read() as tx:
            verdicts = [v for v in tx.verdicts(endpoint) if base(v.candidate) == prior_version and v.judged_at > since]
        if not verdicts:
            return Recovery(None, None, f"the judge has not spoken on version {prior_version} since the step")
        verdict = max(verdicts, key=lambda v: (v.bad, v.judged_at))  # what one judge saw the other does not undo
        words = f"the judge says {verdict.state}: {verdict.reason}"
        if verdict.bad:
            return Recovery(None, False, words, hopeless=True)
        if verdict.state is State.HEALTHY and verdict.judged_at >= since + step:
            return Recovery(True, True, words)
        return Recovery(
            None, None, f"the judge says {verdict.state}; a step serves {step.total_seconds():g} s at least"
        )


class Probed:
    """Verifies a drill: requests are sent, and the answers name the served entity."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace, self._settings = workspace, settings

    def recovery(self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str) -> Recovery:
        """Errors: TransientError, ConfigError of the workspace."""
        versions = {e.name: e.entity_version for e in self._workspace.endpoint(endpoint).entities}
        probe = self._settings.endpoint(endpoint).release.probe
        replies = [self._workspace.invoke(endpoint, probe) for _ in range(DRILL_REQUESTS)]
        failed = [reply.status for reply in replies if reply.status != 200]
        by: Mapping[str, int] = {
            version: sum(versions.get(reply.served_by) == version for reply in replies) for version in versions.values()
        }
        still, sentence = by.get(bad_version, 0), ", ".join(f"version {v}: {n}" for v, n in by.items())
        if not sum(by.values()):
            sentence = "the endpoint does not say which version answers"
        return Recovery(
            still == 0, not failed, f"{sentence}; {len(failed)} of {counted(len(replies), 'request')} failed"
        )
