"""An endpoint's own metrics become one row a minute, whatever labels and formats they come in."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.collectors.endpoint_metrics import row
from lastgood.errors import CorruptError

NOW = datetime(2026, 3, 1, 12, 5, 30, tzinfo=UTC)
TEXT = """# HELP request_count_total Requests.
# TYPE request_count_total gauge
request_count_total{endpoint_name="chat",served_model_name="a"} 40
request_count_total{endpoint_name="chat",served_model_name="b"} 2
# TYPE request_4xx_count_total gauge
request_4xx_count_total{endpoint_name="chat"} 3
# TYPE cpu_usage_percentage gauge
cpu_usage_percentage{endpoint_name="chat"} 12.5
"""


def test_labels_are_summed_and_the_minute_is_the_last_whole_one() -> None:
    found = row("chat", TEXT, NOW)
    assert found == {
        "endpoint": "chat", "minute": datetime(2026, 3, 1, 12, 4, tzinfo=UTC), "requests": 42.0, "errors_4xx": 3.0,
        "errors_5xx": 0.0, "scraped_at": NOW,
    }  # fmt: skip


def test_the_samples_own_time_is_believed() -> None:
    at = int(datetime(2026, 3, 1, 11, 0, 10, tzinfo=UTC).timestamp() * 1000)
    found = row("chat", f"request_count_total 7 {at}\n", NOW)
    assert found is not None
    assert (found["minute"], found["requests"]) == (datetime(2026, 3, 1, 10, 59, tzinfo=UTC), 7.0)


def test_without_a_count_there_is_no_row_and_absurd_values_are_left_out() -> None:
    assert row("chat", "", NOW) is None
    assert row("chat", "request_5xx_count_total 3\n", NOW) is None
    for value in ("NaN", "-1", "1e300", "+Inf"):
        assert row("chat", f"request_count_total {value}\n", NOW) is None


@given(st.text(max_size=200))
def test_any_text_is_a_row_none_or_a_clear_error(text: str) -> None:
    try:
        found = row("chat", text, NOW)
    except CorruptError as error:
        assert "metrics of chat" in str(error)
    else:
        assert found is None or found["requests"] >= 0


@pytest.mark.parametrize("at", ["1e40", "99999999999999999999", "Inf", "NaN", "-99999999999999999"])
def test_a_time_that_is_none_is_a_clear_error(at: str) -> None:
    with pytest.raises(CorruptError, match="metrics of chat"):
        row("chat", f"request_count_total 7 {at}\n", NOW)


def test_a_page_of_html_is_named() -> None:
    with pytest.raises(CorruptError, match="not Prometheus' text format"):
        row("chat", '<html lang="en"> {broken', NOW)
