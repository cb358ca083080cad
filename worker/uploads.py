"""From a request's body to the files in it. Pure: bytes and a content type in, `Upload`s or a `ClusterError` out.

Three ways to send images: multipart/form-data (`curl -F data=@image.jpg`), JSON (`{"instances": [{"b64": …}]}`), and
the image itself as the body. A form must be called one, for its type names its boundary. Otherwise what the data is
decides, not what it is called: no image begins like a JSON object, and `curl -d` calls JSON a form of another kind.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import multipart
import orjson

from muster import wire
from muster.errors import BadRequest, TooLarge

JSON_OBJECT: Final = re.compile(rb"[ \t\r\n]*\{")
MOST_FIELDS: Final = 16
"""Fields of a form that are not files: who sends more is not sending pictures."""
MOST_MARKS: Final = 64
MOST_MARKS_PER_IMAGE: Final = 4
"""Brackets, colons and commas in JSON, of which base64 has none. So what is parsed is never deep nor slow to parse."""
_EXTENDED_NAME: Final = re.compile(r"; *filename\*=([\w-]*)'[\w-]*'([^;\s]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it was sent. `filename` is only ever repeated to its sender, never used as a path."""

    filename: str | None
    data: bytes


def unpack(body: bytes, content_type: str, most: int) -> list[Upload]:
    """The files in `body`, one to `most`, in order. Raises BadRequest or TooLarge."""
    if not body:
        raise BadRequest(f"there is no image: send a file, as in `curl -F {wire.FILE_FIELD}=@image.jpg`")
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        return _from_form(body, kind, content_type, most)
    if kind == "application/json" or JSON_OBJECT.match(body):
        return _from_json(body, content_type, most)
    return [Upload(None, body)]


def _from_form(body: bytes, kind: str, content_type: str, most: int) -> list[Upload]:
    if kind != "multipart/form-data":
        raise BadRequest(f"{kind[:100]!r} is not read here; send multipart/form-data")
    try:
        _, options = multipart.parse_options_header(content_type)
        boundary = options.get("boundary", "")
        if not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]{0,68}[\x21-\x7e])?", boundary):
            raise BadRequest("the content type names no valid boundary of the multipart body")
        files = list(_files(body, boundary, most))
    except multipart.ParserLimitReached as error:
        raise BadRequest(f"the multipart body has too much of something: {_sentence(error)}") from error
    except (multipart.MultipartError, ValueError, LookupError) as error:
        raise BadRequest(f"the multipart body is malformed: {_sentence(error)}") from error
    if not files:
        raise BadRequest(f"the form holds no file: send one, as in `curl -F {wire.FILE_FIELD}=@image.jpg`")
    wrong = next((field for field, _ in files if field != wire.FILE_FIELD), None)
    if len(files) > 1 and wrong is not None:
        raise BadRequest(f"among several files each must be in the field {wire.FILE_FIELD!r}, not {wrong[:100]!r}")
    return [upload for _, upload in files]


def _files(body: bytes, boundary: str, most: int) -> Iterator[tuple[str, Upload]]:
    """Each file with its field's name."""
    parser = multipart.PushMultipartParser(
        boundary, content_length=len(body), max_segment_count=most + MOST_FIELDS, strict=False
    )
    count = 0
    with parser:
        part: Any = None
        data: list[bytes] = []
        for event in parser.parse(body):
            if isinstance(event, multipart.MultipartSegment):
                part, data = event, []
                if (part.content_type or "").startswith("multipart/"):
                    raise BadRequest("a multipart body inside a multipart body is not read here")
            elif event is not None:
                data.append(event)
            elif _is_file(part):
                count = _counted(count + 1, most)
                yield part.name, Upload(_filename(part), b"".join(data))


def _filename(part: Any) -> str | None:
    """The file's name, also in the form of RFC 2231, in which some clients send names that are not ASCII."""
    if part.filename is not None:
        return str(part.filename)
    extended = _EXTENDED_NAME.search(part["Content-Disposition"])
    if extended is None:
        return None
    charset, name = extended.groups()
    if charset.lower() not in ("", "utf-8", "iso-8859-1"):
        raise BadRequest(f"the name of a file is in the charset {charset[:100]!r}; UTF-8 is read here")
    return unquote(name, charset or "utf-8", "replace")


def _is_file(part: Any) -> bool:
    """Does the part bring a file? Texts of a form may have a content type too, and careless clients name no file."""
    kind = part.content_type or ""
    named = _filename(part) is not None or part.name == wire.FILE_FIELD
    return named or kind.startswith("image/") or kind == "application/octet-stream"


def _from_json(body: bytes, content_type: str, most: int) -> list[Upload]:
    charset = multipart.parse_options_header(content_type)[1].get("charset", "utf-8")
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise BadRequest(f"JSON is read as UTF-8 here, not as {charset[:100]!r}")
    if sum(body.count(mark) for mark in b"[{:,") > MOST_MARKS_PER_IMAGE * most + MOST_MARKS:
        raise BadRequest('the JSON holds far more than {"instances": [{"b64": "…"}, …]}')
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadRequest('the JSON must be {"instances": [{"b64": "…"}, …]} with at least one instance')
    _counted(len(instances), most)
    return [Upload(None, _from_base64(number, instance)) for number, instance in enumerate(instances)]


def _from_base64(number: int, instance: object) -> bytes:
    text = instance.get("b64") if isinstance(instance, dict) and len(instance) == 1 else None
    if not isinstance(text, str):
        raise BadRequest(f'instance {number} must be {{"b64": "…"}} and nothing else')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"instance {number} is not base64") from error


def _counted(count: int, most: int) -> int:
    if count > most:
        raise TooLarge(f"at most {most} images go into one request", max_images=most)
    return count


def _sentence(error: Exception) -> str:
    return str(error.args[0] if error.args else error)[:200]
