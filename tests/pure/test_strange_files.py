"""What breaks readers of files: nothing in a file is bent, lost or counted twice without a word, and no file gives a traceback."""

import bz2
import errno
import gzip
import json
import lzma
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_support import lastgood
from deltalake import DeltaTable, write_deltalake
from files_support import HALVES, ROWS, START, csv, legacy, rows, run, versions

from lastgood.cli import scan
from lastgood.cli.check import check
from lastgood.errors import ConfigError
from lastgood.settings import load

Rows = list[dict[str, Any]]


def lines(path: Path, made: Rows, dumps: Callable[[Any], str] = json.dumps) -> Path:
    path.write_text("".join(dumps(row) + "\n" for row in made))
    return path


def parquet(path: Path, made: Rows, **columns: pa.Array) -> Path:
    table = pa.Table.from_pylist(made)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    pq.write_table(table, path)
    return path


def figures(result: dict[str, Any], version: str = "1") -> dict[str, Any]:
    made: dict[str, Any] = result["endpoints"][0]["versions"][version]
    return made


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"latency_ms": lambda i: f"{i},5"}, "120 values of latency_ms, the first in .*: row 2: '0,5'"),
        ({"latency_ms": lambda i: "1,234.5" if i == 3 else i}, "1 value of latency_ms, the first in .*: row 5: '1,234.5'"),
        ({"latency_ms": lambda i: f"{i} ms"}, "120 values of latency_ms"),
        ({"tokens_in": lambda i: "1.234"}, "120 values of tokens_in, the first in .*: row 2: '1.234'"),
        ({"status_code": lambda i: "fine"}, "120 values of status_code"),
        ({"features": lambda i: "[1, 2]"}, "120 values of features"),
    ],
)  # fmt: skip
def test_values_that_are_there_and_cannot_be_read_are_counted(
    tmp_path: Path, change: dict[str, Any], note: str
) -> None:
    result = run(csv(tmp_path / "x.csv", rows(**change)))
    assert versions(result) == HALVES
    assert any(re.search(note, told) for told in result["notes"]), result["notes"]


def test_features_that_are_a_list_are_counted_in_json_and_parquet(tmp_path: Path) -> None:
    for path in (
        lines(tmp_path / "x.jsonl", rows(features=[1, 2])),
        parquet(tmp_path / "x.parquet", rows(features=[1, 2])),
    ):
        assert "120 values of features" in run(path)["notes"][0]


@pytest.mark.parametrize(
    "column",
    [pa.array([i % 2 == 0 for i in range(ROWS)]), pa.array([[200]] * ROWS), pa.array([1] * ROWS, pa.time64("us"))],
)
def test_a_status_of_another_type_is_counted(tmp_path: Path, column: pa.Array) -> None:
    assert "120 values of status_code" in run(parquet(tmp_path / "x.parquet", rows(), status_code=column))["notes"][0]


def test_status_lines_and_durations_are_read(tmp_path: Path) -> None:
    made = rows(
        error_code=None, status_code=lambda i: ["200 OK", "500 Internal Server Error", "OK", "Not Found"][i % 4]
    )
    result = run(csv(tmp_path / "x.csv", made))
    assert figures(result, "2")["error_codes"] == {"HTTP_500": ROWS / 4, "HTTP_404": ROWS / 4}
    result = run(parquet(tmp_path / "x.parquet", rows(), latency_ms=pa.array([2] * ROWS, pa.duration("s"))))
    assert figures(result)["p50_ms"] == pytest.approx(2_000, rel=0.01)


@pytest.mark.parametrize("word", ["NA", "<NA>", "None", "nan", "NaN", "null", " ", "N/A", "\\N"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_words_for_unknown_are_unknown(tmp_path: Path, word: str, form: str) -> None:
    made = rows(error_code=word, model_version=lambda i: word if i % 2 else "1")
    path = tmp_path / f"x.{form}"
    writers: dict[str, Callable[[], Path]] = {
        "csv": lambda: csv(path, made, quoting=1), "jsonl": lambda: lines(path, made), "parquet": lambda: parquet(path, made),
    }  # fmt: skip
    result = run(writers[form]())
    assert versions(result) == {"1": ROWS / 2, "?": ROWS / 2}
    assert figures(result)["error_rate"] == 0


def test_nan_as_an_error_code_or_a_version_is_unknown(tmp_path: Path) -> None:
    made = rows(error_code=lambda i: "TIMEOUT" if i % 10 == 0 else float("nan"))
    result = run(lines(tmp_path / "x.jsonl", made))
    assert figures(result)["error_codes"] == {"TIMEOUT": ROWS / 10}
    made = rows(model_version=lambda i: float("nan") if i % 2 else 1)
    assert versions(run(lines(tmp_path / "y.jsonl", made))) == {"1": ROWS / 2, "?": ROWS / 2}


def test_rows_that_share_an_id_are_counted_and_versions_are_never_one_request(tmp_path: Path) -> None:
    made = rows(request_id=lambda i: f"r{i // 2}")
    result = run(lines(tmp_path / "x.jsonl", made))
    assert versions(result) == HALVES
    assert "60 request ids stand on rows of several model versions" in result["notes"][0]
    made = rows(request_id=lambda i: f"r{i % 2}-{i // 4}")
    result = run(lines(tmp_path / "y.jsonl", made))
    assert versions(result) == {"1": ROWS / 4, "2": ROWS / 4}
    assert "120 rows share a request id with another and were counted as 60 requests" in result["notes"][0]


UUIDS = [uuid.UUID(int=i << 40).bytes for i in range(ROWS)]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(UUIDS, pa.binary()), pa.array(UUIDS, pa.binary(16)), pa.array(UUIDS, pa.uuid()), pa.array(UUIDS, pa.large_binary()),
        pa.array([b"\x00\xff" + bytes([i]) for i in range(ROWS)]), pa.array([2**60 + i for i in range(ROWS)]),
        pa.array([2**63 + i for i in range(ROWS)], pa.uint64()), pa.array([float(i) for i in range(ROWS)]),
        pa.array([f"{i}" for i in range(ROWS)]).dictionary_encode(), pa.array([f"{i}" for i in range(ROWS)], pa.string_view()),
        pa.array(range(ROWS)).cast(pa.decimal128(38, 0)),
    ],
    ids=lambda ids: str(ids.type),
)  # fmt: skip
def test_ids_of_any_type_keep_their_value(tmp_path: Path, ids: pa.Array) -> None:
    assert versions(run(parquet(tmp_path / "x.parquet", rows(), request_id=ids))) == HALVES


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_long_numbers_as_ids_and_versions_keep_their_digits(tmp_path: Path, form: str) -> None:
    made = rows(request_id=lambda i: 12345678901234567890000 + i, model_version=lambda i: 20261127060000000001 + i % 2)
    path = tmp_path / f"x.{form}"
    lines(path, made) if form == "jsonl" else path.write_text(json.dumps(made))
    assert versions(run(path)) == {"20261127060000000001": ROWS / 2, "20261127060000000002": ROWS / 2}


def test_ids_that_were_made_floats_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", rows(), request_id=pa.array([float(2**60 + i * 1000) for i in range(ROWS)]))
    with pytest.raises(ConfigError, match=r"row 1, column request_id: .* is a number that is no exact name"):
        run(path)


def test_rows_without_an_id_are_named_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [{name: v for name, v in row.items() if name != "request_id" or i > 60} for i, row in enumerate(rows())]
    monkeypatch.setattr("lastgood.collectors.files.BATCH", 50)
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 2_000)
    path = lines(tmp_path / "x.jsonl", made)
    results = []
    for workers in (1, 2):
        monkeypatch.setattr(scan, "workers_for", lambda _, n=workers: n)
        results.append(run(path))
    assert versions(results[0]) == HALVES
    assert results[0]["rejected"] == {}
    assert results[0]["endpoints"] == results[1]["endpoints"]


@pytest.mark.parametrize(
    ("made", "row"),
    [
        (legacy(lambda m: m | {"model_version": 1.1 if m["model_version"] == "1" else 1.2}), 1),
        (rows(model_version=lambda i: "1.10" if i < 100 else 1.1), 101),
        (rows(model_version=lambda i: 1.1 if i == 70 else "1"), 71),
    ],
)
def test_a_fraction_anywhere_in_json_is_refused(
    tmp_path: Path, made: Rows, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lastgood.collectors.sniffing.SAMPLE", 4_000)
    monkeypatch.setattr("lastgood.collectors.files.SAMPLE", 4_000)
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 4_000)
    with pytest.raises(
        ConfigError, match=rf"row {row}, column .*model_version\]?: 1.1 is a number that is no exact name"
    ):
        run(lines(tmp_path / "x.jsonl", made))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1.1", "1.10"] * (ROWS // 2)).cast(pa.decimal128(5, 2)), pa.array([1.0] * 60 + [1.1] * 60),
        pa.array([1.5] * ROWS, pa.float32()),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_a_fraction_in_any_column_type_is_refused(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(ConfigError, match=r"row \d+, column model_version: .* is a number that is no exact name"):
        run(parquet(tmp_path / "x.parquet", rows(), model_version=column))


METADATA = {
    "python": str, "pairs": lambda m: str(list(m.items())), "json pairs": lambda m: json.dumps(list(map(list, m.items()))),
    "duckdb": lambda m: "{" + ", ".join(f"{k}={v}" for k, v in m.items()) + "}",
}  # fmt: skip


@pytest.mark.parametrize("written", METADATA.values(), ids=METADATA.keys())
def test_metadata_as_tools_write_it(tmp_path: Path, written: Callable[[dict[str, str]], str]) -> None:
    assert versions(run(csv(tmp_path / "x.csv", legacy(written)))) == HALVES


def test_metadata_as_a_list_of_lists(tmp_path: Path) -> None:
    made = legacy(lambda m: list(map(list, m.items())))
    assert versions(run(parquet(tmp_path / "x.parquet", made))) == HALVES
    assert versions(run(lines(tmp_path / "x.jsonl", made))) == HALVES


def test_metadata_that_nobody_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 2, column request_metadata: 'm/1' cannot be read, and 120 of 120 rows"):
        run(csv(tmp_path / "x.csv", legacy(lambda m: "m/1")))


def table() -> pa.Table:
    return pa.Table.from_pylist(rows(error_code="-"))


def folder(path: Path, **files: pa.Table) -> Path:
    for name, part in files.items():
        where = path / name.replace("__", "/").replace("_dot_", ".")
        where.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, where)
    return path


def test_what_is_not_read_of_a_folder_is_named(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "t", a_dot_PARQUET=table().slice(0, 60), b_dot_pq=table().slice(60), _temporary__a_dot_parquet=table(),
        _dot_ipynb__a_dot_parquet=table(),
    )  # fmt: skip
    (path / "b.csv").write_text("x\n")
    (path / "more").symlink_to(tmp_path, target_is_directory=True)
    (path / "_SUCCESS").touch()
    result = run(path)
    assert versions(result) == HALVES
    (note,) = result["notes"]
    assert note.startswith("not read: ")
    for name in ("b.csv", "more (a link)", "_temporary", ".ipynb"):
        assert name in note


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scandir = folder(tmp_path / "t", a_dot_parquet=table(), b__b_dot_parquet=table()), os.scandir

    def refused(name: Any) -> Any:  # the superuser, as whom this may run, is refused nothing
        if isinstance(name, str | os.PathLike) and Path(name) == path / "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return scandir(name)

    monkeypatch.setattr(os, "scandir", refused)
    assert "b (Permission denied)" in run(path)["notes"][0]


def test_folders_of_csv_and_of_other_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    csv(tmp_path / "c" / "b.csv", rows())
    with pytest.raises(ConfigError, match=r"no Parquet files, but b\.csv; name one of them"):
        run(tmp_path / "c")
    write_deltalake(str(tmp_path / "d" / "t"), table())
    write_deltalake(str(tmp_path / "d" / "t"), table(), mode="overwrite")
    with pytest.raises(ConfigError, match="d/t is a Delta table"):
        run(tmp_path / "d")
    folder(tmp_path / "i", data__a_dot_parquet=table())
    (tmp_path / "i" / "v1.metadata.json").write_text("{}")
    with pytest.raises(ConfigError, match="belongs to an Iceberg table"):
        run(tmp_path / "i")
    folder(tmp_path / "o", a_dot_parquet=table(), b_dot_parquet=pa.table({"x": [1]}))
    with pytest.raises(ConfigError, match=r"b\.parquet: not a table of requests"):
        run(tmp_path / "o")
    folder(tmp_path / "k", a_dot_parquet=table(), z_dot_parquet=pa.Table.from_pylist(legacy(dict)))
    with pytest.raises(ConfigError, match=r"a\.parquet is a table of kind canonical, z\.parquet of kind legacy"):
        run(tmp_path / "k")
    folder(tmp_path / "z", a_dot_parquet=table())
    (tmp_path / "z" / "b.parquet").touch()
    with pytest.raises(ConfigError, match=r"b\.parquet: could not be read as Parquet"):
        run(tmp_path / "z")


def test_columns_that_some_files_lack_are_named(tmp_path: Path) -> None:
    other = table().slice(60).rename_columns(["latency" if n == "latency_ms" else n for n in table().column_names])
    result = run(folder(tmp_path / "t", a_dot_parquet=table().slice(0, 60), b_dot_parquet=other))
    assert "latency_ms is unknown in b.parquet, which has no such column" in result["notes"]


def test_partitions_are_decoded_and_agree_with_the_file(tmp_path: Path) -> None:
    bare = table().drop_columns(["model_version"])
    path = tmp_path / "t"
    for name, part in (("a%20b", bare.slice(0, 60)), ("__HIVE_DEFAULT_PARTITION__", bare.slice(60))):
        (path / f"model_version={name}").mkdir(parents=True)
        pq.write_table(part, path / f"model_version={name}" / "p.parquet")
    assert versions(run(path)) == {"a b": ROWS / 2, "?": ROWS / 2}
    (tmp_path / "u" / "model_version=9").mkdir(parents=True)
    pq.write_table(table(), tmp_path / "u" / "model_version=9" / "p.parquet")
    with pytest.raises(ConfigError, match=r"row 1: model_version is '1', and '9' in the folder's name"):
        run(tmp_path / "u")


def test_delta_partitions_with_signs_of_their_own(tmp_path: Path) -> None:
    names = pa.array(["v 1:a%", "ü/2@main"] * (ROWS // 2))
    made = table().set_column(table().schema.get_field_index("model_version"), "model_version", names)
    write_deltalake(str(tmp_path / "t"), made, partition_by=["model_version"])
    assert versions(run(tmp_path / "t")) == {"v 1:a%": ROWS / 2, "ü/2@main": ROWS / 2}


def test_delta_column_mapping_in_the_old_protocol(tmp_path: Path) -> None:
    """As a writer of protocol (2, 5) leaves it: no table features, names in the schema, other names in the files."""
    write_deltalake(str(tmp_path / "t"), table().rename_columns([f"c{i}" for i in range(table().num_columns)]))
    log = tmp_path / "t" / "_delta_log" / "00000000000000000000.json"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        if "protocol" in entry:
            entry["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
        if "metaData" in entry:
            schema = json.loads(entry["metaData"]["schemaString"])
            for i, (given, name) in enumerate(zip(schema["fields"], table().column_names, strict=True), 1):
                given["metadata"] = {"delta.columnMapping.id": i, "delta.columnMapping.physicalName": given["name"]}
                given["name"] = name
            entry["metaData"]["schemaString"] = json.dumps(schema)
            entry["metaData"]["configuration"] = {
                "delta.columnMapping.mode": "name",
                "delta.columnMapping.maxColumnId": str(i),
            }
        entry.get("add", {}).pop("stats", None)
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert DeltaTable(str(tmp_path / "t")).protocol().reader_features is None
    result = run(tmp_path / "t")
    assert versions(result) == HALVES
    assert figures(result)["p50_ms"]


ONE = json.dumps(rows()[0])
TWO = json.dumps(rows()[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[{ONE}] [{TWO}]", "the JSON array breaks off"), (f"[{ONE}, {TWO}]garbage", "the array has ended, found 'garbage'"),
        (f"[{ONE} {TWO}]", "',' expected"), (f"[{ONE},]", "the JSON array breaks off"), (f"[,{ONE}]", "the JSON array breaks off"),
        (f"[{ONE},,{TWO}]", "the JSON array breaks off"), ("[" * 100_000, "nested too deeply"),
        (f"[{ONE}, 5, [{TWO}]]", r"row 2: not a JSON object: '5', and 2 rows are like it"),
        (f'[{ONE[:-1]}, "model_version": "9"}}]', "key model_version stands twice"),
        (f'{ONE[:-1]}, "latency_ms": 9}}', "row 1: key latency_ms stands there twice"),
        (f"{ONE},\n{TWO}", "row 1 is not a JSON object on a line of its own.*end it without a comma"),
        (json.dumps({"endpoint": {"0": "e"}, "model_version": {"0": "1"}, "requested_at": {"0": 1}}), "holds columns, not rows"),
    ],
)  # fmt: skip
def test_json_that_is_not_what_it_seems_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        run(tmp_path / "x.json")


def test_items_and_lines_that_are_no_objects_are_counted_up_to_a_tenth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.json").write_text(json.dumps([5, *rows()]))
    result = run(tmp_path / "x.json")
    assert (result["rejected"], versions(result)) == ({"not a JSON object": 1}, HALVES)
    made = [json.dumps(row) for row in rows()]
    monkeypatch.setattr("lastgood.collectors.files.SAMPLE", 4_000)
    (tmp_path / "y.jsonl").write_text("\n".join([*made[:90], *("{" for _ in range(20)), *made[90:]]))
    with pytest.raises(
        ConfigError, match=r"row 91: not a JSON object: '\{', and 20 rows are like it, more than a tenth"
    ):
        run(tmp_path / "y.jsonl")


def test_a_key_twice_late_in_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastgood.collectors.files.SAMPLE", 4_000)
    made = [json.dumps(row) for row in rows()]
    made[100:] = [f'{line[:-1]}, "model_version": "9"}}' for line in made[100:]]
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 2_000)
    (tmp_path / "x.jsonl").write_text("\n".join(made))
    with pytest.raises(ConfigError, match=r"row 1\d\d, column model_version: it stands there twice"):
        run(tmp_path / "x.jsonl")


def test_two_units_of_time_late_in_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastgood.collectors.files.SAMPLE", 4_000)
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 4_000)
    made = rows(requested_at=lambda i: (START.timestamp() + i) * (1 if i < 100 else 1000))
    with pytest.raises(
        ConfigError, match=r"row 101, column requested_at: .* is a time in ms where earlier rows have s"
    ):
        run(lines(tmp_path / "x.jsonl", made))


def test_times_that_nobody_can_read_name_row_value_and_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"row 2, column requested_at: '01\.03\.2026' cannot be read, .*expected ISO 8601, as"
    ):
        run(csv(tmp_path / "x.csv", rows(requested_at="01.03.2026")))


def test_times_as_bytes(tmp_path: Path) -> None:
    at = pa.array([row["requested_at"].encode() for row in rows()])
    assert versions(run(parquet(tmp_path / "x.parquet", rows(), requested_at=at))) == HALVES


def test_a_column_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(table().append_column("model_version", pa.array(["9"] * ROWS)), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match=r"x\.parquet: column model_version stands there twice"):
        run(tmp_path / "x.parquet")


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_lone_surrogates_and_line_separators_are_text(tmp_path: Path, form: str) -> None:
    made = rows(output=lambda i: "\ud83d" if i % 2 else "a\u2028b\u0085c")
    path = tmp_path / f"x.{form}"
    path.write_text(
        json.dumps(made)
        if form == "json"
        else "\n".join(json.dumps(row, ensure_ascii=i % 2 == 1) for i, row in enumerate(made))
    )
    result = run(path)
    assert (versions(result), result["rejected"]) == (HALVES, {})


def test_csv_with_other_line_ends_spaces_long_fields_and_excels_first_line(tmp_path: Path) -> None:
    made = rows(input="plain")
    assert versions(run(csv(tmp_path / "a.csv", made, lineterminator="\r"))) == HALVES
    text = csv(tmp_path / "b.csv", made).read_text()
    (tmp_path / "b.csv").write_text(text.replace(",", ", "))
    assert versions(run(tmp_path / "b.csv")) == HALVES
    (tmp_path / "c.csv").write_text("sep=;\n" + csv(tmp_path / "x.csv", made, sep=";").read_text())
    assert versions(run(tmp_path / "c.csv")) == HALVES
    assert versions(run(csv(tmp_path / "d.csv", rows(output="x" * 140_000)[:6]))) == {"1": 3, "2": 3}


def test_a_first_line_longer_than_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastgood.collectors.files.SAMPLE", 4_000)
    assert versions(run(lines(tmp_path / "x.jsonl", rows(output=lambda i: "y" * 9_000 if i == 0 else "y")))) == HALVES


def test_a_stray_quote_does_not_move_the_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 1_000)
    text = csv(tmp_path / "x.csv", rows(input='one,\n"two"')).read_text()
    (tmp_path / "x.csv").write_text(text.replace("chat,", 'chat" 5,', 1))
    result = run(tmp_path / "x.csv")
    assert result["rejected"] == {}
    assert [sum(figures["requests"] for figures in e["versions"].values()) for e in result["endpoints"]] == [
        ROWS - 1,
        1,
    ]


def test_packed_files_are_read_or_named(tmp_path: Path) -> None:
    text = lines(tmp_path / "x.jsonl", rows()).read_bytes()
    (tmp_path / "x.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "x.xz").write_bytes(lzma.compress(text))
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + text)
    assert versions(run(tmp_path / "x.bz2")) == versions(run(tmp_path / "x.xz")) == HALVES
    with pytest.raises(ConfigError, match="is a zip archive; unpack it first"):
        run(tmp_path / "x.zip")


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    packed = gzip.compress(lines(tmp_path / "x.jsonl", rows()).read_bytes())
    (tmp_path / "x.gz").write_bytes(packed[:200] + b"\x00\x01\x02" + packed[203:])
    pq.write_table(table(), tmp_path / "x.parquet", compression="zstd")
    damaged = bytearray((tmp_path / "x.parquet").read_bytes())
    for i in range(4, 400):
        damaged[i] ^= 0xA5
    (tmp_path / "x.parquet").write_bytes(damaged)
    write_deltalake(str(tmp_path / "t"), table())
    (tmp_path / "t" / "_delta_log" / "00000000000000000000.json").write_text("{not json\n")
    (tmp_path / "u" / "_delta_log").mkdir(parents=True)
    for name in ("x.gz", "x.parquet", "t", "u"):
        with pytest.raises(ConfigError, match="could not be read as Delta, Parquet, CSV or JSON lines"):
            run(tmp_path / name)


def test_late_bytes_that_are_no_text_name_row_and_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastgood.collectors.files.SAMPLE", 4_000)
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 4_000)
    path = csv(tmp_path / "x.csv", rows(input="plain"))
    path.write_bytes(path.read_bytes().replace(b"answer 100", b"answer \xe9\xe9"))
    with pytest.raises(ConfigError, match=r"row 102, column output: .* is not UTF-8"):
        run(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "no/such/folder", "-", ""])
def test_a_name_that_is_no_table_is_said_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such file|is expected"):
        check(name, load(None))


def test_markup_in_data_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = rows(model_version=lambda i: "v[/]1" if i % 2 else "[prod]1", error_code="[/chat] timeout", endpoint="[/e]")
    (tmp_path / "[").mkdir()
    code, out, err = lastgood(capsys, "check", str(lines(tmp_path / "[" / "x].jsonl", made)))
    assert code == 0, err
    for word in ("v[/]1", "[prod]1", "TIMEOUT", "[/e]"):
        assert word in out


def test_json_to_standard_output_is_strict_and_all_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def strict(word: str) -> None:
        raise AssertionError(word)

    code, out, err = lastgood(capsys, "check", str(lines(tmp_path / "x.jsonl", rows())), "--json", "-")
    assert code == 0
    assert json.loads(out, parse_constant=strict)["rows"] == ROWS
    assert "verdict" not in err
    assert "lastgood check: counting" in err


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_what_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    path = lines(tmp_path / "x.jsonl", rows())
    for target in (tmp_path / "nowhere" / "out", tmp_path):
        code, _, err = lastgood(capsys, "check", str(path), option, str(target))
        assert code == 2
        assert str(target) in err
        assert "counting" not in err


def test_the_table_is_not_cut_where_no_terminal_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = lastgood(capsys, "check", str(lines(tmp_path / "x.jsonl", rows())))
    assert "errors (95%)" in out
    assert "…" not in out


def _interruptible() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_no_traceback(tmp_path: Path) -> None:
    made = rows(output="word " * 200)
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made) * 200)
    process = subprocess.Popen(
        [sys.executable, "-m", "lastgood", "check", str(path)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=_interruptible,  # noqa: PLW1509
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "counting" in first
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_a_distance_that_was_not_measured_is_no_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [
        {
            "endpoint": "chat", "model_version": "1" if i < 300 else "2", "requested_at": (START + timedelta(seconds=i)).isoformat(),
            "request_id": f"r{i}", "tokens_in": i // 100 if i < 300 else 10,
        }
        for i in range(600)
    ]  # fmt: skip
    path = lines(tmp_path / "x.jsonl", made)
    drift = next(row for row in run(path)["endpoints"][0]["drift"] if row["column"] == "tokens_in")
    assert drift["distance"] is None
    _, out, _ = lastgood(capsys, "check", str(path))
    assert "- (not measured: too few independent rows)" in out


def test_tokens_are_those_of_requests_that_say_them(tmp_path: Path) -> None:
    result = run(lines(tmp_path / "x.jsonl", rows(tokens_in=lambda i: 400 if i % 4 < 2 else None)))
    assert (figures(result)["tokens_in"], figures(result)["tokens_out"]) == (400, None)
    assert figures(run(lines(tmp_path / "y.jsonl", rows(tokens_in=0))))["tokens_in"] == 0
