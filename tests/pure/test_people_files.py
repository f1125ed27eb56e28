"""Files that people bring to `lastgood check`: each oddity is read and said, or refused with row and column; no version is guessed."""

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from files_support import HALVES, PROMPT, ROWS, START, csv, legacy, rows, run, versions

from lastgood.errors import ConfigError


def gateway() -> list[dict[str, Any]]:
    """Rows of an AI Gateway table, bodies with quotes, commas and line breaks in them."""
    request = json.dumps({"messages": [{"role": "user", "content": PROMPT}]}, indent=1)
    response = json.dumps({"choices": [{"message": {"content": 'so "yes",\nno'}, "finish_reason": "stop"}]})
    return [
        {
            "databricks_request_id": f"r{i}", "request_time": START + timedelta(seconds=i), "status_code": 200,
            "execution_duration_ms": 20 + i, "request": request, "response": response, "served_entity_id": f"chat-{i % 2}",
            "requester": "ann",
        }
        for i in range(ROWS)
    ]  # fmt: skip


@pytest.mark.parametrize(("delimiter", "words"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_bodies_with_quotes_and_line_breaks_and_any_delimiter(tmp_path: Path, delimiter: str, words: str) -> None:
    result = run(csv(tmp_path / "x.csv", rows(), sep=delimiter))
    assert versions(result) == HALVES
    assert f"CSV: {words}, doubled quotes, 8 columns, times as text" in result["read"]


def test_the_platforms_own_export_keeps_prompts_out_of_versions(tmp_path: Path) -> None:
    result = run(csv(tmp_path / "x.csv", gateway()))
    assert versions(result) == {"chat-0": ROWS / 2, "chat-1": ROWS / 2}
    assert not result["rejected"]
    assert result["notes"]


def test_quotes_escaped_by_a_backslash(tmp_path: Path) -> None:
    result = run(csv(tmp_path / "x.csv", rows(), doublequote=False, escapechar="\\"))
    assert versions(result) == HALVES
    assert "quotes escaped by a backslash" in result["read"]


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1e3), ("us", 1e6)])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_times_as_numbers(tmp_path: Path, unit: str, per_second: float, form: str) -> None:
    made = rows(requested_at=lambda i: round((START.timestamp() + i) * per_second))
    path = tmp_path / f"x.{form}"
    if form == "csv":
        csv(path, made)
    else:
        path.write_text("\n".join(map(json.dumps, made)))
    result = run(path)
    assert versions(result) == HALVES
    assert result["endpoints"][0]["versions"]["1"]["first"] == START.isoformat()
    assert f"times in {unit} UTC" in result["read"]


def test_two_units_in_one_column_are_refused_with_row_and_column(tmp_path: Path) -> None:
    made = rows(requested_at=lambda i: round((START.timestamp() + i) * (1 if i != 40 else 1e3)))
    with pytest.raises(ConfigError, match=r"row 42, column requested_at: a time in ms where earlier rows have s"):
        run(csv(tmp_path / "x.csv", made))


def test_versions_are_texts(tmp_path: Path) -> None:
    made = rows(model_version=lambda i: ["1.1", "1.10"][i % 2])
    assert versions(run(csv(tmp_path / "x.csv", made))) == {"1.1": ROWS / 2, "1.10": ROWS / 2}


def test_a_version_that_is_a_number_with_a_fraction_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(model_version=1.1)))
    with pytest.raises(ConfigError, match=r"row 1, column model_version: 1.1 is a number that is no exact name"):
        run(path)
    table = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows(model_version=1.1)), table)
    with pytest.raises(ConfigError, match=r"row 1, column model_version: 1.1 is a number that is no exact name"):
        run(table)


def test_whole_versions_that_pandas_made_floats(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows(model_version=lambda i: None if i == 0 else float(1 + i % 2))), path)
    assert versions(run(path)) == {"?": 1, "1": ROWS / 2 - 1, "2": ROWS / 2}


def test_request_metadata_as_text(tmp_path: Path) -> None:
    assert versions(run(csv(tmp_path / "x.csv", legacy(json.dumps)))) == HALVES
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in legacy(json.dumps)))
    assert versions(run(path)) == HALVES
    path.write_text("\n".join(json.dumps(row) for row in legacy(dict)))
    assert versions(run(path)) == HALVES


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows(), indent=indent))
    result = run(path)
    assert versions(result) == HALVES
    assert "an array of JSON objects" in result["read"]


def test_an_array_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows())[:-30])
    with pytest.raises(ConfigError, match="the JSON array breaks off"):
        run(path)


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_gzip(tmp_path: Path, form: str) -> None:
    plain = tmp_path / f"x.{form}"
    if form == "csv":
        csv(plain, rows())
    else:
        plain.write_text(json.dumps(rows()) if form == "json" else "\n".join(map(json.dumps, rows())))
    packed = tmp_path / f"x.{form}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    result = run(packed)
    assert versions(result) == HALVES
    assert "gzip" in result["read"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_a_byte_order_mark(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"x.{form}"
    if form == "csv":
        csv(path, rows(), encoding="utf-8-sig")
    else:
        text = json.dumps(rows()) if form == "json" else "\n".join(map(json.dumps, rows()))
        path.write_text(text, encoding="utf-8-sig")
    assert versions(run(path)) == HALVES


def test_windows_line_ends(tmp_path: Path) -> None:
    assert versions(run(csv(tmp_path / "x.csv", rows(), lineterminator="\r\n"))) == HALVES


def test_ragged_rows_are_set_aside_and_counted(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", rows(input="plain"))
    lines = path.read_text().splitlines()
    lines[5] = lines[5] + ",more"
    lines[9] = lines[9].rsplit(",", 2)[0]
    path.write_text("\n".join(lines))
    result = run(path)
    assert result["rejected"] == {"row has another number of fields than the header": 2}
    assert sum(versions(result).values()) == ROWS - 2


def test_mostly_ragged_rows_are_refused(tmp_path: Path) -> None:
    lines = csv(tmp_path / "x.csv", rows(input="plain")).read_text().splitlines()
    (tmp_path / "x.csv").write_text("\n".join([lines[0], *(line + ",more" for line in lines[1:])]))
    with pytest.raises(ConfigError, match=r"row 2 has 9 fields, the header 8"):
        run(tmp_path / "x.csv")


def test_quotes_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    header = "endpoint,model_version,requested_at,latency_ms,input\n"
    good = 'chat,1,2026-03-01T12:00:00Z,20,"plain"\n'
    odd = 'chat,1,2026-03-01T12:00:01Z,20,"a\\"\n'
    (tmp_path / "x.csv").write_text(header + good * 20 + odd + 'chat,1,2026-03-01T12:00:01Z,20,"b"\n' + good * 20)
    with pytest.raises(ConfigError, match=r"row 22, column input: quotes could be doubled or escaped by a backslash"):
        run(tmp_path / "x.csv")


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("endpoint,model_version,requested_at,latency_ms,latency_ms\nchat,1,2026-03-01T12:00:00Z,1,2\n")
    with pytest.raises(ConfigError, match=r"row 1: column latency_ms stands there twice"):
        run(path)


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        run(csv(tmp_path / "x.csv", rows(), encoding="utf-16"))
    with pytest.raises(ConfigError, match=r"byte \d+ is not UTF-8"):
        run(csv(tmp_path / "y.csv", rows(input="Größe"), encoding="latin-1"))


def test_lines_that_are_no_objects_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows()]
    (tmp_path / "x.jsonl").write_text("\n".join([*lines[:50], "{broken", "[1]", "", *lines[50:]]))
    result = run(tmp_path / "x.jsonl")
    assert result["rejected"] == {"not a JSON object": 2}
    assert "row 51: '{broken'" in result["rejected_first"]["not a JSON object"]
    assert versions(result) == HALVES


def test_nan_in_json_lines(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows(feature_age_ms=float("nan"))]
    assert "NaN" in lines[0]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    assert versions(run(tmp_path / "x.jsonl")) == HALVES


def test_columns_that_come_late_in_json_lines_are_read(tmp_path: Path) -> None:
    made = rows()
    for row in made[:100]:
        del row["error_code"]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, made)))
    codes = [figures["error_codes"] for figures in run(tmp_path / "x.jsonl")["endpoints"][0]["versions"].values()]
    assert {"TIMEOUT": 2.0} in codes


def test_parquet_folders_with_partitions_and_delta(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    pq.write_to_dataset(table, tmp_path / "parted", partition_cols=["model_version"])
    assert versions(run(tmp_path / "parted")) == HALVES
    write_deltalake(str(tmp_path / "delta"), table)
    assert versions(run(tmp_path / "delta")) == HALVES
    write_deltalake(str(tmp_path / "delta_parted"), table, partition_by=["model_version"])
    assert versions(run(tmp_path / "delta_parted")) == HALVES


def test_a_null_version_is_unknown_and_not_judged(tmp_path: Path) -> None:
    result = run(csv(tmp_path / "x.csv", rows(model_version=lambda i: None if i % 2 else "1")))
    assert versions(result) == {"1": ROWS / 2, "?": ROWS / 2}
    assert result["endpoints"][0]["verdict"]["candidate"] == "1"
