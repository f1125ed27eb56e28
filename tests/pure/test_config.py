"""Settings: explicit values over the environment over the file; mistakes are named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lastgood.errors import ConfigError
from lastgood.settings import Mode, Settings, load, secret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lastgood.yaml"
    path.write_text("storage: /from/file\nwindow_s: 30\nweb: {port: 1111, link_ttl_s: 90}\ndefault: {mode: observe}\n")
    return path


def test_the_file_overrides_the_defaults(file: Path) -> None:
    found = load(file)
    assert (found.storage, found.window_s, found.web.port, found.default.mode) == ("/from/file", 30, 1111, Mode.OBSERVE)


def test_the_environment_overrides_the_file_key_by_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTGOOD_STORAGE", "/from/environment")
    monkeypatch.setenv("LASTGOOD_WEB__PORT", "2222")
    found = load(file)
    assert (found.storage, found.web.port, found.web.link_ttl_s, found.window_s) == ("/from/environment", 2222, 90, 30)


def test_explicit_values_override_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTGOOD_STORAGE", "/from/environment")
    assert load(file, storage="/explicit").storage == "/explicit"


def test_secrets_named_in_the_environment_do_not_disturb(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTGOOD_LINK_KEY", "k")
    assert secret(load(file).web.link_key_env) == "k"
    assert secret(None) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("storag: x", "line 1: storag: there is no such setting; did you mean storage?"),
        ("\nwindow_s: soon", "line 2: window_s: Input should be a valid integer"),
        ("window_s: 0", "line 1: window_s: Input should be greater than or equal to 1"),
        ("web: {port: 70000}", "line 1: web.port: Input should be less than or equal to 65535"),
        (
            "default:\n  policy:\n    rollback_e: 0.5",
            "line 3: default.policy.rollback_e: Input should be greater than 1",
        ),
        (
            "endpoints:\n  chat:\n    policy: {cooldwn_s: 5}",
            "line 3: endpoints.chat.policy.cooldwn_s: there is no such setting; did you mean cooldown_s?",
        ),
        ("sources:\n  labels:\n  - {table: t, nam: n}", "line 3: sources.labels.0.name: Field required"),
        (
            "sources:\n  labels:\n  - {table: t, name: n}\n  - {table: t, name: n, valeu: v}",
            "line 4: sources.labels.1.valeu: there is no such setting; did you mean value?",
        ),
        ("web: {zzz: 1}", "line 1: web.zzz: there is no such setting; there are allowed_hosts, approvers,"),
        (
            "web: {oidc: {issuer: i, client_id: c, client_sekret_env: x}}",
            "line 1: web.oidc.client_sekret_env: there is no such setting; did you mean client_secret_env?",
        ),
        (
            "endpoints: {chat: {mode: maybe}}",
            "line 1: endpoints.chat.mode: Input should be 'observe', 'approve' or 'auto'",
        ),
        ("storage: a\nwindow_s: 60\nstorage: b", "line 3: storage is set twice, in line 1 too; keep one of them"),
        (
            "endpoints:\n  chat: {mode: auto}\n  chat: {mode: observe}",
            "line 3: chat is set twice, in line 2 too; keep one of them",
        ),
        ("[1, 2]", "expected a mapping of settings, found list"),
        ("just words", "expected a mapping of settings, found str"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lastgood.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_a_mistake_in_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTGOOD_WEB__PORT", "many")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"web\.port: .*valid integer"):
        load()


def test_a_broken_document_in_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTGOOD_WEB", "{broken")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="web"):
        load()


def test_bytes_that_are_no_text_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lastgood.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=f"{path}"):
        load(path)
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "none.yaml")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "lastgood.yaml"
    path.write_text("# nothing yet\n")
    assert load(path).window_s == 60


@pytest.mark.parametrize("storage", ["main.lastgood.verdicts", "main.last good", "main..lastgood", "main.`last`good"])
def test_a_storage_that_is_neither_a_schema_nor_a_folder_is_refused(storage: str) -> None:
    """It would make a folder of that name on the machine of the service, and the jobs' tables would be elsewhere."""
    with pytest.raises(ValidationError, match=r"neither catalog\.schema nor a folder"):
        Settings(storage=storage)


@pytest.mark.parametrize(
    "storage",
    [
        "main.lastgood",
        "my-cat.größe",
        "`a b`.c",
        "./v1.2.3",
        ".lastgood",
        "data",
        "../x.y.z",
        "s3://b/a.b.c",
        "C:\\a.b.c",
    ],
)
def test_every_home_is_taken(storage: str) -> None:
    assert Settings(storage=storage).storage == storage
