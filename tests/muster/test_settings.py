"""Settings: one declaration gives the flag, the variable, the type and the help."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.settings import load, port, setting, size


@dataclass(frozen=True, slots=True)
class Kettle:
    """Boils water."""

    port: int = setting(80, "port to listen on", parse=port)
    max_fill: int = setting(1000, "largest fill", unit="bytes", parse=size)
    patience: float = setting(2.5, "how long to wait", unit="seconds")
    whistle: bool = setting(True, "whistle when done")
    label: str | None = setting(None, "what is written on it, at 100% size")
    steam: int = setting(1536 * 2**10, "most steam", unit="bytes", parse=size)


def kettle(*argv: str, **environ: str) -> Kettle:
    return load(Kettle, argv, environ, "KETTLE", "kettle")


def refused(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    with pytest.raises(SystemExit) as end:
        kettle(*argv, **environ)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 2  # and not a page of usage before it
    return lines[-1]


def test_defaults_hold_when_nothing_is_said() -> None:
    assert kettle() == Kettle(80, 1000, 2.5, True, None)


def test_a_flag_beats_the_environment_and_the_environment_the_default() -> None:
    assert kettle(KETTLE_PORT="81").port == 81
    assert kettle("--port", "82", KETTLE_PORT="81").port == 82


@pytest.mark.parametrize(
    "argv", [["--max-fill", "2KiB"], ["--max-fill=2KiB"], ["--max_fill", "2KiB"], ["--max_fill=2048"]]
)
def test_underscores_and_hyphens_are_the_same_in_a_flag(argv: list[str]) -> None:
    assert kettle(*argv).max_fill == 2048


def test_an_underscore_in_a_value_stays() -> None:
    assert kettle("--label=a_b").label == "a_b"
    assert kettle("--label", "a_b").label == "a_b"


def test_a_boolean_has_a_flag_for_each_way() -> None:
    assert kettle("--no-whistle").whistle is False
    assert kettle("--whistle", KETTLE_WHISTLE="off").whistle is True
    assert kettle(KETTLE_WHISTLE="off").whistle is False


@pytest.mark.parametrize(("value", "whistles"), [("true", True), ("TRUE", True), ("False", False)])
def test_a_boolean_flag_may_say_which_way(value: str, whistles: bool) -> None:
    assert kettle(f"--whistle={value}").whistle is whistles


def test_a_mistake_names_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "--port", "99999") == "kettle: error: --port: '99999' is not a port (0 to 65535)"


def test_a_mistake_names_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    complaint = refused(capsys, KETTLE_PATIENCE="soon")
    assert complaint == "kettle: error: KETTLE_PATIENCE: 'soon' is not a number from 0 up"


def test_a_flag_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--prot" in refused(capsys, "--prot", "80")


def test_help_tells_default_unit_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        kettle("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "how long to wait (default: 2.5 seconds; KETTLE_PATIENCE)" in text
    assert "at 100% size (default: none; KETTLE_LABEL)" in text
    assert "largest fill (default: 1000 bytes; KETTLE_MAX_FILL)" in text
    assert "most steam (default: 1536 KiB; KETTLE_STEAM)" in text


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("512", 512), ("1kB", 1000), ("1KiB", 1024), ("1.5 GB", 1_500_000_000), ("1" + "0" * 400, 10**400)],
)
def test_a_size_may_have_a_unit(text: str, number: int) -> None:
    assert size(text) == number


@given(st.text())
def test_no_text_breaks_a_parser_in_another_way_than_value_error(text: str) -> None:
    for parser in (size, port):
        try:
            assert parser(text) >= 0
        except ValueError as error:
            assert str(error)  # noqa: PT017  # any sentence will do
