"""The variables that Consul's own tools read."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from discovery.consul_settings import ConsulSettings, from_environ


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (None, "http://127.0.0.1:8500"),
        ("", "http://127.0.0.1:8500"),
        ("consul", "http://consul:8500"),
        ("consul:8501", "http://consul:8501"),
        (":8501", "http://127.0.0.1:8501"),
        ("[::1]:8501", "http://[::1]:8501"),
        ("http://consul", "http://consul:80"),
        ("https://consul", "https://consul:443"),
        ("HTTPS://consul:8501/", "https://consul:8501"),
    ],
)
def test_an_address_is_understood_as_consul_understands_it(address: str | None, url: str) -> None:
    assert from_environ({} if address is None else {"CONSUL_HTTP_ADDR": address}).base_url == url


@pytest.mark.parametrize(
    "address", ["ftp://consul:1", "http://consul/prefix", "consul:port", "unix://relative", "http://a:1:2", "::1"]
)
def test_an_address_that_makes_no_sense_is_a_sentence_that_names_the_variable(address: str) -> None:
    with pytest.raises(ValueError, match=r"^CONSUL_HTTP_ADDR: "):
        from_environ({"CONSUL_HTTP_ADDR": address})


def test_a_unix_socket_is_asked_unless_a_host_is_given() -> None:
    environ = {"CONSUL_HTTP_ADDR": "unix:///run/consul.sock"}
    assert from_environ(environ).socket == "/run/consul.sock"
    assert from_environ(environ, host="other").socket is None


def test_what_the_address_leaves_open_comes_from_the_environment() -> None:
    environ = {"CONSUL_HTTP_ADDR": "https://there:8501"}
    assert from_environ(environ, host="here").base_url == "https://here:8501"
    assert from_environ(environ, port=9).base_url == "https://there:9"


def test_tls_is_switched_on_by_its_own_variable_too() -> None:
    assert from_environ({"CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_ADDR": "consul:8501"}).tls
    assert not from_environ({"CONSUL_HTTP_SSL": "0"}).tls


def test_a_switch_that_is_neither_on_nor_off_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^CONSUL_HTTP_SSL_VERIFY: "):
        from_environ({"CONSUL_HTTP_SSL_VERIFY": "perhaps"})


def test_a_token_file_beats_a_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    settings = from_environ({"CONSUL_HTTP_TOKEN": "plain", "CONSUL_HTTP_TOKEN_FILE": str(file)})
    assert settings.headers() == {"X-Consul-Token": "from-file"}
    assert from_environ({"CONSUL_HTTP_TOKEN": "plain"}).headers() == {"X-Consul-Token": "plain"}


def test_a_token_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^CONSUL_HTTP_TOKEN_FILE cannot be read: "):
        from_environ({"CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "none")})


def test_a_token_is_repeated_neither_in_sentences_nor_in_logs() -> None:
    with pytest.raises(ValueError) as caught:
        from_environ({"CONSUL_HTTP_TOKEN": "secret\r\nX-Evil: 1"})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(ConsulSettings(token="secret"))


def test_a_namespace_travels_with_every_request() -> None:
    assert from_environ({"CONSUL_NAMESPACE": "team"}).headers() == {"X-Consul-Namespace": "team"}


def test_certificates_are_verified_unless_told_otherwise() -> None:
    assert ConsulSettings().ssl_context().verify_mode is ssl.CERT_REQUIRED
    assert ConsulSettings(verify=False).ssl_context().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("variable", ["CONSUL_CACERT", "CONSUL_CLIENT_CERT"])
def test_a_certificate_that_cannot_be_loaded_is_a_sentence_that_names_the_variable(
    variable: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.pem").write_text("this is no certificate")
    for file in ("bad.pem", "none.pem"):
        with pytest.raises(ValueError, match=variable):
            from_environ({variable: str(tmp_path / file)}).ssl_context()
