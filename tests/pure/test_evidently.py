"""Evidently's test functions are imported alone, and all of Evidently can be imported afterwards in the same process."""

import subprocess
import sys

PROGRAM = """
import sys
import pandas as pd
from lastgood.jobs.evidently_report import opinion, opinions
a, b = pd.Series(range(500), dtype=float), pd.Series(range(200, 700), dtype=float)
one = opinion(b, a, True)
alone = not {"plotly", "litestar", "nltk"} & set(sys.modules) and "evidently" not in sys.modules
two = opinions(b.to_frame("x"), a.to_frame("x"), ["x"], [])["x"]
assert one.drifted and two.drifted and abs(one.score - two.score) < 1e-12, (one, two)
assert opinion(b, a, True) == one
print(alone)
"""


def test_a_worker_does_not_load_all_of_evidently_and_gets_the_verdict_of_its_report() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["True"]), done.stderr[-2000:]
