"""Who can write the database can write the whole audit log anew; an anchor outside shows it."""

import json
from pathlib import Path

import pytest
from alerts_support import House, MemoryWorkspace, endpoint, settings
from sqlalchemy import create_engine
from typer.testing import CliRunner

from lastgood.alerts.anchor import Anchors, read
from lastgood.alerts.audit import GENESIS, entry_hash
from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.cli.app import app
from lastgood.errors import ConfigError
from lastgood.settings import AuditAnchor, Mode


@pytest.fixture
def house(tmp_path: Path) -> House:
    config = settings(Mode.AUTO).model_copy(update={"audit_anchor": AuditAnchor(file=tmp_path / "anchors.jsonl")})
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), config)
    house.verdict()
    return house


def verify(house: House, *words: str) -> tuple[int, str]:
    path = house.folder / "lastgood.yaml"
    path.write_text(
        f"storage: {house.folder}\nstate_url: {house.url}\naudit_anchor: {{file: {house.folder}/anchors.jsonl}}\n"
    )
    result = CliRunner().invoke(app, ["audit", *words, "--config", str(path)])
    return result.exit_code, result.output


def written_anew(house: House) -> None:
    """As somebody with the database's password: an entry changed, and every hash after it made right."""
    engine = create_engine(house.url)
    with house.store.read() as tx:
        entries = [dict(entry) for entry in tx.audit()]
    previous = GENESIS
    with engine.begin() as db:
        for entry in entries:
            entry["who"] = "nobody"
            digest = entry_hash(previous, {k: v for k, v in entry.items() if k != "hash"})
            db.exec_driver_sql("UPDATE audit SET who = 'nobody', hash = ? WHERE seq = ?", (digest, entry["seq"]))
            previous = digest
        head = json.dumps({"seq": entries[-1]["seq"], "hash": previous})
        db.exec_driver_sql("UPDATE flags SET value = ? WHERE name = 'audit_head'", (head,))
    engine.dispose()


def test_a_log_that_was_written_anew_is_found_by_its_anchor_alone(house: House) -> None:
    anchors = Anchors(house.store, house.config, house.clock)
    assert anchors.write() and not anchors.write(), "one anchor per head"
    anchors.close()
    assert verify(house, "verify")[0] == 0
    written_anew(house)
    with house.store.read() as tx:
        assert tx.verify() == [], "the chain itself is whole"
    code, output = verify(house, "verify")
    assert (code, "was anchored at" in output) == (5, True), output
    house.close()


def test_the_same_line_goes_to_a_url_and_a_failure_is_kept_until_it_works(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_fake() as pager:
        monkeypatch.setenv("LASTGOOD_AUDIT_ANCHOR_URL", pager.url.replace("/v2/enqueue", "/nothing"))
        anchors = Anchors(house.store, house.config, house.clock)
        anchors()
        assert "refused" in anchors.problem
        anchors.close()
    assert len(read(house.folder / "anchors.jsonl")) == 1
    house.close()


def test_a_file_that_is_no_list_of_anchors_or_cannot_be_written_is_named(house: House) -> None:
    path = house.folder / "anchors.jsonl"
    path.write_text('{"at": "2026-01-01", "seq": 1, "hash": "a"}\nnothing\n')
    with pytest.raises(ConfigError, match="line 2: expected a JSON object"):
        read(path)
    lost = house.config.model_copy(update={"audit_anchor": AuditAnchor(file=Path("/nowhere/anchors"))})
    anchors = Anchors(house.store, lost, house.clock)
    anchors()
    assert "cannot be written" in anchors.problem
    anchors.close()
    house.close()


def test_the_command_prints_the_head_and_appends_it(house: House) -> None:
    with house.store.read() as tx:
        head = tx.audit_head()
    code, output = verify(house, "anchor", "--out", str(house.folder / "anchors.jsonl"))
    assert (code, json.loads(output)["hash"]) == (0, head["hash"])
    assert read(house.folder / "anchors.jsonl")[0]["seq"] == head["seq"]
    house.close()
