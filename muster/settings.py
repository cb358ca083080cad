"""Settings: each declared once, as a field of a frozen dataclass.

    @dataclass(frozen=True, slots=True)
    class ProxySettings:
        \"\"\"The reverse proxy.\"\"\"
        port: int = setting(12480, "port to listen on")
        idle_timeout: float = setting(75.0, "close a client's connection without a request", unit="seconds")

`load(ProxySettings, argv, environ, "PROXY")` derives the flag `--idle-timeout`, the variable `PROXY_IDLE_TIMEOUT`, the
type and the help. A flag beats the environment, the environment beats the default, every complaint names its subject.
Who reads command lines of another kind finds the texts of the flags by himself and calls `settle`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")

_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "kib": 2**10, "m": 10**6, "mb": 10**6, "mib": 2**20,
          "g": 10**9, "gb": 10**9, "gib": 2**30}  # fmt: skip


def setting(
    default: Any,
    help: str,  # noqa: A002  # the word argparse and everybody else uses
    *,
    unit: str = "",
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """One setting: its default, what it does, its unit, and how text becomes its value if its type does not say."""
    return dataclasses.field(default=default, metadata={"help": help, "unit": unit, "parse": parse})


def size(text: str) -> int:
    """A number of bytes: `33554432`, `32MiB`, `1.5 GB`. ValueError if it is not one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size such as 500kB, 32MiB or a number of bytes")
    return int(Decimal(match[1]) * _UNITS[match[2].lower()])


def port(text: str) -> int:
    """A TCP port, 0 to 65535 (0 lets the system choose). ValueError if it is not one."""
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def log_level(text: str) -> str:
    """`debug`, `info`, `warning` or `error`, in any case. ValueError otherwise."""
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(f"{text!r} is not debug, info, warning or error")
    return text.lower()


def boolean(text: str) -> bool:
    """`true`, `yes`, `on`, `1` or their opposites, in any case. ValueError otherwise."""
    word = text.strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def load(cls: type[T], argv: Sequence[str], environ: Mapping[str, str], prefix: str, prog: str | None = None) -> T:
    """Read `cls` from the command line and the environment; a mistake prints one sentence and exits with status 2."""
    parser = argparse.ArgumentParser(
        prog=prog, usage="%(prog)s [--SETTING VALUE ...]    (--help lists them)", description=cls.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        _add(parser, field, prefix)
    booleans = _booleans(cls)
    given = vars(parser.parse_args([_plain(word, booleans) for word in argv]))
    try:
        return settle(cls, {name: text for name, text in given.items() if text is not None}, environ, prefix)
    except ValueError as error:
        parser.error(str(error))


def settle(
    cls: type[T],
    given: Mapping[str, str | bool],
    environ: Mapping[str, str],
    prefix: str,
    flags: Mapping[str, str] | None = None,
) -> T:
    """The settings from what flags said, by the fields' names, and from the environment for the rest.

    `flags` has the names of flags that are called otherwise than their fields, for complaints about them.
    Raises ValueError, one sentence, for a value that cannot be read and for settings that do not go together.
    """
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        flag = (flags or {}).get(field.name, _flag(field))
        values[field.name] = _value(field, given.get(field.name), flag, environ, _variable(prefix, field))
    return cls(**values)


def _booleans(cls: type) -> frozenset[str]:
    return frozenset(_flag(field) for field in dataclasses.fields(cls) if isinstance(field.default, bool))


def _flag(field: dataclasses.Field[Any]) -> str:
    return "--" + field.name.replace("_", "-")


def _plain(word: str, booleans: Set[str]) -> str:
    """`--max_body=1` is `--max-body=1`, and `--p2p=false` is `--no-p2p`: all spellings are in people's fingers."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    if name in booleans and value.lower() in ("true", "false"):
        return name if value.lower() == "true" else "--no-" + name[2:]
    return name + equals + value


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], prefix: str) -> None:
    unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
    if field.default in (None, ""):
        default = "none"
    elif field.metadata["parse"] is size:
        default = _sized(field.default)  # type: ignore[arg-type]
    else:
        default = f"{field.default}{unit}"
    text = f"{field.metadata['help']} (default: {default}; {_variable(prefix, field)})".replace("%", "%%")
    flag = _flag(field)
    if isinstance(field.default, bool):
        parser.add_argument(flag, dest=field.name, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        parser.add_argument(flag, dest=field.name, metavar=(unit.strip() or field.name).upper(), help=text)


def _sized(count: int) -> str:
    """A number of bytes as `size` reads it, in the largest unit of which it is a whole number."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and count % 2**power == 0:
            return f"{count >> power} {unit}"
    return f"{count} bytes"


def _variable(prefix: str, field: dataclasses.Field[Any]) -> str:
    return f"{prefix}_{field.name.upper()}"


def _value(
    field: dataclasses.Field[Any], text: str | bool | None, flag: str, environ: Mapping[str, str], variable: str
) -> Any:
    source = flag
    if text is None:
        source, text = variable, environ.get(variable)
    if text is None or isinstance(text, bool):
        return field.default if text is None else text
    try:
        return _parser_of(field)(text)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _parser_of(field: dataclasses.Field[Any]) -> Callable[[str], Any]:
    parse: Callable[[str], Any] | None = field.metadata["parse"]
    if parse is not None:
        return parse
    kinds = [kind for kind in _union_of(field.type) if kind in _PARSERS]
    return _PARSERS[kinds[0]]


def _union_of(annotation: Any) -> list[str]:
    """The member names of `int`, `int | None` or `"int | None"`; modules may postpone their annotations."""
    if isinstance(annotation, str):
        return [part.strip() for part in annotation.split("|")]
    if isinstance(annotation, types.UnionType):
        return [part.__name__ for part in typing.get_args(annotation)]
    return [annotation.__name__]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text!r} is not a number from 0 up")
    return number


_PARSERS: dict[str, Callable[[str], Any]] = {"bool": boolean, "int": _integer, "float": _number, "str": str}
