"""How a process starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muster.lifetime import LIFELINE, Stop, supervised

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from muster.lifetime import run

async def serve(stop):
    print("ready", flush=True)
    await stop.wait()
    print("ended in order", flush=True)

sys.exit(run(serve))
"""


async def test_a_background_task_that_dies_ends_the_process_with_its_error() -> None:
    async def die() -> None:
        raise ValueError("no more")

    stop = Stop()
    async with supervised("the batcher", die(), stop):
        with pytest.raises(ValueError, match="no more"):
            await asyncio.wait_for(stop.wait(), 5)


async def test_a_background_task_that_ends_by_itself_is_a_failure_too() -> None:
    async def end() -> None:
        return

    stop = Stop()
    async with supervised("the batcher", end(), stop):
        with pytest.raises(RuntimeError, match="the batcher ended by itself"):
            await asyncio.wait_for(stop.wait(), 5)


async def test_a_background_task_ends_with_its_block_and_that_is_no_failure() -> None:
    stop = Stop()
    async with supervised("the batcher", asyncio.Event().wait(), stop) as task:  # type: ignore[arg-type]
        pass
    assert task.cancelled()
    assert not stop.requested


async def test_a_process_is_asked_to_stop_once() -> None:
    stop = Stop()
    stop.request("first")
    stop.request("second")
    await asyncio.wait_for(stop.wait(), 5)


def test_a_process_that_is_to_outlive_its_terminal_does() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM
    with subprocess.Popen([sys.executable, "-c", ignoring], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.3)
        program.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_an_orderly_end(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(number)
        assert program.stdout.readline() == "ended in order\n"
        assert program.wait(10) == 0


LINGERING = """
import asyncio, uvloop
from muster.lifetime import run

async def serve(stop):
    print("ready", flush=True)
    await stop.wait()
    print("leaving", flush=True)
    await asyncio.sleep(LEAVES)
    print("left", flush=True)

run(serve, loop_factory=uvloop.new_event_loop)
"""


def test_who_is_asked_again_to_end_does_so_at_once() -> None:
    program = LINGERING.replace("LEAVES", "3600")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "leaving\n"
        for _ in range(100):
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
                break
        assert child.wait(0) == -signal.SIGTERM


def test_one_signal_that_is_sent_to_a_process_and_to_its_group_is_one() -> None:
    program = LINGERING.replace("LEAVES", "0.2")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "leaving\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "left\n"
        assert child.wait(10) == 0


def test_a_process_ends_when_the_lifeline_of_its_parent_closes() -> None:
    theirs, ours = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True, pass_fds=(theirs,),
        env=os.environ | {LIFELINE: str(theirs)},
    ) as program:  # fmt: skip
        os.close(theirs)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        os.close(ours)
        assert program.wait(10) == 0


def test_a_program_without_an_event_loop_ends_with_its_parent_too() -> None:
    program = "import signal\nfrom muster.lifetime import follow_lifeline\nfollow_lifeline()\nsignal.pause()"
    theirs, ours = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, pass_fds=(theirs,), env=os.environ | {LIFELINE: str(theirs)}
    ) as child:
        os.close(theirs)
        os.close(ours)
        assert child.wait(10) == -signal.SIGTERM


def test_a_program_that_hangs_ends_with_its_parent_all_the_same() -> None:
    program = (
        "import asyncio, signal, time\nfrom muster.lifetime import Stop, follow_lifeline\n"
        "async def hang():\n    Stop().listen()\n    print('hangs', flush=True)\n    time.sleep(60)\n"
        "follow_lifeline(signal.SIGKILL, 0.1)\nasyncio.run(hang())"
    )
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)  # as uvloop has it
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, pass_fds=(theirs,),
        env=os.environ | {LIFELINE: str(theirs)},
    ) as child:  # fmt: skip
        os.close(theirs)
        assert child.stdout is not None
        assert child.stdout.readline() == "hangs\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        os.close(ours)
        assert child.wait(10) == -signal.SIGKILL


def test_what_breaks_a_program_is_one_sentence_and_status_one() -> None:
    program = "import sys\nfrom muster.lifetime import run\n" \
        "async def serve(stop): raise OSError('the disk is full')\nsys.exit(run(serve))"  # fmt: skip
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.endswith("the disk is full\n")


def test_what_a_client_wrote_cannot_make_lines_in_the_log_nor_command_a_terminal() -> None:
    name = "m\n2026 CRITICAL all is lost\r\x1b[2J\u2028\x9b\udcff ö"
    program = (
        "import logging, sys\nfrom muster.lifetime import run\n"
        f"async def serve(stop): logging.getLogger('x').warning('no model %s', {name!r})\nsys.exit(run(serve))"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=30, check=True)
    (line,) = ended.stderr.decode().splitlines()
    assert line.endswith(r"WARNING x: no model m\n2026 CRITICAL all is lost\r\x1b[2J\u2028\x9b\udcff ö")
