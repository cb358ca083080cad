"""The `muster` command as people run it: a process, its two outputs and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from muster import __version__
from muster.errors import BadRequest, NotAnImage, NoWorkers, UnknownModel
from tests.muster.cluster import SEVEN, answering, nobody_there, serving

ROOT = Path(__file__).parent.parent.parent
WORKER = {
    "id": "ann",
    "address": "127.0.0.1:1",
    "models": ["digits", "cats"],
    "state": "ready",
    "versions": {"digits": [1, 2]},
}


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


async def muster(*arguments: object, **environ: str) -> Ran:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muster", *map(str, arguments), cwd=ROOT, env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "[red]7.png"  # a name is a name, no markup
    path.write_bytes(b"pixels")
    return path


async def test_the_answer_for_one_file_is_a_table_and_where_it_came_from(picture: Path) -> None:
    async with serving(classify=answering(SEVEN, X_Served_By="ann")) as url:
        ran = await muster("classify", picture, "--proxy", url)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[1].split()[:2] == ["7", "0.9000"]
    assert ran.out.splitlines()[-1] == f"{picture}: model digits version 1, worker ann"


async def test_several_files_have_a_line_each_in_their_order(picture: Path) -> None:
    other = picture.with_name("other.png")
    other.write_bytes(b"slow")
    turn = asyncio.Event()

    async def classify(request: web.Request) -> web.Response:
        if await request.read() == b"slow":
            await turn.wait()
        turn.set()
        return web.json_response(SEVEN)

    async with serving(classify=classify) as url:
        ran = await muster("classify", other, picture, "--proxy", url)
    assert ran.out.splitlines() == [f"{other}: 7  0.9000", f"{picture}: 7  0.9000"]


async def test_json_is_one_object_per_line_with_what_failed_among_it(picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_bytes(b"text")

    async def classify(request: web.Request) -> web.Response:
        if await request.read() == b"text":
            return web.json_response(NotAnImage("this is no image").to_json(), status=415)
        return web.json_response(SEVEN, headers={"X-Served-By": "ann"})

    async with serving(classify=classify) as url:
        ran = await muster("classify", picture, text, tmp_path, "--json", "--proxy", url)
    good, bad, directory = map(json.loads, ran.out.splitlines())
    assert good == {"file": str(picture), **SEVEN, "served_by": "ann", "timings": {}}
    assert bad == {"file": str(text), "error": "this is no image", "code": "not_an_image"}
    assert directory == {"file": str(tmp_path), "error": "Is a directory", "code": "unreadable_file"}
    assert (ran.status, ran.err) == (1, "")


async def test_a_file_that_cannot_be_read_is_one_sentence_and_the_others_are_answered(picture: Path) -> None:
    async with serving(classify=answering(SEVEN)) as url:
        ran = await muster("classify", "missing.png", picture, "--proxy", url)
    assert ran == Ran(1, f"{picture}: 7  0.9000\n", "muster: missing.png: No such file or directory\n")


async def test_an_empty_file_is_one_sentence_and_the_others_are_answered(picture: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    async with serving(classify=answering(SEVEN)) as url:
        ran = await muster("classify", empty, picture, "--proxy", url)
    assert ran == Ran(1, f"{picture}: 7  0.9000\n", f"muster: {empty}: the image is empty\n")


async def test_p2p_model_and_top_reach_the_worker(picture: Path) -> None:
    queries = []

    async def classify(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        return web.json_response(SEVEN)

    async with serving(classify=classify) as worker:
        named = {"address": worker.removeprefix("http://"), "ttl": 5}
        async with serving(root=answering(named)) as proxy:
            ran = await muster("classify", picture, "--p2p", "--model", "digits", "--top", 3, MUSTER_PROXY=proxy)
    assert ran.status == 0
    assert queries == [{"model": "digits", "top": "3"}]


async def test_what_is_wrong_with_every_file_is_said_once(picture: Path) -> None:
    async with serving(classify=answering(UnknownModel("there is no model 'cats'").to_json(), 404)) as url:
        ran = await muster("classify", *[picture] * 20, "--model", "cats", "--proxy", url)
    assert ran == Ran(1, "", "muster: there is no model 'cats'\n")


async def test_among_several_models_it_says_which_option_chooses_one_and_lists_them(picture: Path) -> None:
    refusal = BadRequest("say which, as in ?model=NAME", models=["cats", "digits"])
    async with serving(classify=answering(refusal.to_json(), 400)) as url:
        ran = await muster("classify", picture, picture, "--proxy", url)
    assert ran == Ran(1, "", "muster: several models are served: choose one with --model NAME: cats, digits\n")


async def test_a_proxy_that_is_not_there_is_one_sentence(picture: Path) -> None:
    with nobody_there() as address:
        ran = await muster("classify", picture, "--proxy", address)
    assert ran == Ran(1, "", f"muster: nothing answers at http://{address}\n")


async def test_a_proxy_that_answers_but_not_with_tls_is_told_from_one_that_is_not_there(picture: Path) -> None:
    async with serving(classify=answering(SEVEN)) as url:
        ran = await muster("classify", picture, "--proxy", url.replace("http://", "https://"))
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("muster: no TLS with https://127.0.0.1:")


async def test_a_proxy_without_workers_is_one_sentence(picture: Path) -> None:
    refusal = answering(NoWorkers("no worker is available").to_json(), 503, Retry_After="0")
    async with serving(classify=refusal) as url:
        ran = await muster("classify", picture, "--proxy", url)
    assert ran == Ran(1, "", "muster: no worker is available\n")


async def test_an_address_that_is_none_is_one_sentence(picture: Path) -> None:
    ran = await muster("classify", picture, "--proxy", "ftp://nowhere")
    assert ran.status == 1
    assert ran.err.startswith("muster: 'ftp://nowhere' is not the address of a proxy")


async def test_workers_are_a_table_for_people_and_lines_for_programs() -> None:
    async with serving(workers=answering({"workers": [WORKER]})) as url:
        table = await muster("workers", "--proxy", url)
        lines = await muster("workers", "--json", "--proxy", url)
    assert [line.split() for line in table.out.splitlines()] == [
        ["worker", "address", "models", "state"],
        ["ann", "127.0.0.1:1", "digits", "(1,", "2),", "cats", "ready"],
    ]
    assert json.loads(lines.out) == WORKER


async def test_no_workers_are_a_sentence_for_people_and_nothing_for_programs() -> None:
    async with serving(workers=answering({"workers": []})) as url:
        assert (await muster("workers", "--proxy", url)).out == "No workers are listed.\n"
        assert (await muster("workers", "--json", "--proxy", url)).out == ""


async def test_the_version_is_the_packages() -> None:
    assert await muster("--version") == Ran(0, f"muster {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [["classify"], ["clasify", "x"], ["classify", "x", "--top", "0"], ["up", "--port", "0"]]
)
async def test_a_mistake_in_the_command_line_is_status_two(arguments: list[str]) -> None:
    ran = await muster(*arguments)
    assert ran.status == 2
    assert "Traceback" not in ran.err
