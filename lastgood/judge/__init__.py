"""judge(evidence, policy, history, now) -> Verdict. Pure: no clock, file, network or log."""

from lastgood.judge.judge import Drifted, Evidence, History, Planned, changes, judge
from lastgood.record.verdict import Finding, State, Verdict

__all__ = ["Drifted", "Evidence", "Finding", "History", "Planned", "State", "Verdict", "changes", "judge"]
