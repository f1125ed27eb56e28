"""A trace's arrivals, compressed in time."""

from pathlib import Path

import pytest

from lastgood.demo.traffic import arrivals
from lastgood.errors import ConfigError


def test_a_trace_is_compressed_and_thinned_to_the_asked_rate(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:{i // 60:02d}:{i % 60:02d}.6805900,{100 + i},44" for i in range(600)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    found = arrivals(trace, 30.0, 10.0)
    times = [at for at, _ in found]
    assert len(found) == 300
    assert times == sorted(times)
    assert times[0] == 0.0
    assert 29.0 < times[-1] <= 30.0
    assert {words for _, words in found} == {min((100 + i) // 10, 60) for i in range(0, 600, 2)}


@pytest.mark.parametrize(
    "content",
    ["", "a,b\n1,2\n", "TIMESTAMP,ContextTokens\nyesterday,3\n", "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n"],
    ids=["an empty file", "other columns", "no times", "one request"],
)
def test_a_file_that_is_no_trace_is_refused_with_a_sentence(tmp_path: Path, content: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(content)
    with pytest.raises(ConfigError, match="expected"):
        arrivals(trace, 30.0, 10.0)
