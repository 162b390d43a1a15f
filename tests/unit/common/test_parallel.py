"""Work on many items at once: order, bounds, and what becomes of workers whose parent is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.common.parallel import look_ahead, map_in_order, process_pool
from helpers.paths import SCRIPTS
from helpers.processes import wait_for

PARENT = """
import os, sys, time
from embedome.common.parallel import map_in_order, process_pool

def work(number):
    print(os.getpid(), flush=True)
    time.sleep(number)
    return number

if __name__ == "__main__":
    with process_pool(2, "embedome.embedding.part_pipeline") as pool:
        list(map_in_order(pool, work, [0.5, 0.5, 600], 2))
"""


# As a rule's script runs: the package is found by sys.path alone.
PRELOADED = """
from embedome.common.parallel import process_pool

if __name__ == "__main__":
    with process_pool(1, "embedome.sequences.headers") as pool:
        print(pool.submit(eval, "'embedome.sequences.headers' in __import__('sys').modules").result())
    print(__import__("os").environ.get("PYTHONPATH"))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True, env=environment
    )
    # The third piece of work is under way.
    workers = {int(process.stdout.readline()) for _ in range(3)}
    assert all(alive(worker) for worker in workers)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_are_forked_with_the_module_loaded(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n{PRELOADED}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["True", "None"]


# A worker is at work once its server has loaded the module, which takes a while.
INTERRUPTED = """
import time
from embedome.common.parallel import process_pool

if __name__ == "__main__":
    try:
        with process_pool(1, "takes_long") as pool:
            print(pool.submit(eval, "__import__('time').sleep(1) or 'worked'").result(), flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("place", ["loading", "at_work"])
def test_an_interrupt_is_answered_by_the_parent_alone(tmp_path: Path, place: str) -> None:
    """Ctrl-C in a terminal reaches workers, and the process that they are forked from, at any moment."""
    (tmp_path / "takes_long.py").write_text(
        "import pathlib, time\npathlib.Path('loading').touch()\ntime.sleep(1)\npathlib.Path('at_work').touch()\n"
    )
    (tmp_path / "parent.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{SCRIPTS}:{tmp_path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for((tmp_path / place).exists)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=100)
    assert output.splitlines()[-1] == "interrupted"
    assert errors == ""


def test_a_killed_worker_is_told() -> None:
    with (
        pytest.raises(UserError, match="a worker process was killed"),
        process_pool(1, "embedome.sequences.headers") as pool,
    ):
        list(map_in_order(pool, os._exit, [1], 1))


def test_work_is_given_back_in_order_and_few_items_wait() -> None:
    begun = given_back = 0

    def items() -> Iterator[int]:
        nonlocal begun
        for i in range(30):
            begun += 1
            yield i

    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        return i * i

    with ThreadPoolExecutor(4) as pool:
        for i, result in enumerate(map_in_order(pool, work, items(), 5)):
            assert result == i * i
            assert begun - given_back <= 5
            given_back += 1
    assert given_back == 30


def test_one_item_is_made_ahead() -> None:
    made = []
    with ThreadPoolExecutor(1) as pool:
        for number in look_ahead(pool, (made.append(i) or i for i in range(5))):
            time.sleep(0.02)
            assert len(made) <= number + 3
    assert made == list(range(5))
