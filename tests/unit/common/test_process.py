"""What a process says of its memory, and that it ends on SIGTERM with all its workers."""

import signal
from functools import partial
from pathlib import Path

import pytest
from embedome.common.parallel import map_in_order, process_pool
from helpers.processes import output_of, start_python, stoppable, wait_for
from helpers.small_run import Processes

GROW = """
from embedome.common.process import peak_memory
before = peak_memory()
block = bytearray(b"x") * 200_000_000
del block
print(peak_memory() - before)
"""


def test_peak_memory_is_that_of_the_fullest_moment() -> None:
    assert 1.9e8 < int(output_of(GROW)) < 2.6e8


def sleep_in_workers(files: list[Path]) -> None:
    """Have a worker for each file write it, and then take long."""
    code = [f"open({str(path)!r}, 'w').close() or __import__('time').sleep(60)" for path in files]
    with process_pool(len(files), "embedome.sequences.headers") as pool:
        list(map_in_order(pool, eval, code, len(files)))


@pytest.mark.slow
def test_sigterm_ends_workers_whatever_they_do(tmp_path: Path, processes: Processes) -> None:
    begun = [tmp_path / "one", tmp_path / "two"]
    process = processes.start(partial(stoppable, partial(sleep_in_workers, begun)))
    try:
        wait_for(lambda: all(path.exists() for path in begun))
        process.terminate()
        process.join(20)
        assert process.exitcode == 128 + signal.SIGTERM
    finally:
        process.kill()


# What the main thread waits for does not end with it: the exit must not wait.
STUCK = """
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from embedome.common.errors import user_errors
from embedome.common.log import setup_logging
from embedome.common.process import exit_on_interrupt
setup_logging()
exit_on_interrupt()
with user_errors(), ThreadPoolExecutor(1) as pool:
    pool.submit(time.sleep, WORK)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("work", [0, 600])
def test_ctrl_c_ends_in_one_line_and_130_whatever_is_under_way(work: int, capfd: pytest.CaptureFixture) -> None:
    with start_python(STUCK.replace("WORK", str(work))) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    [line] = capfd.readouterr().err.splitlines()
    assert "interrupted; finished work is kept, run again to go on" in line
