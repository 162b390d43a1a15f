"""All that is measured on a GPU, in one call of ten minutes: speed, what it depends on, whether the numbers are right.

Random weights of full size, lengths as in UniRef50 (log-normal, mu 5.43, sigma 0.675), bfloat16. It needs torch,
transformers, numpy, pyarrow and safetensors, and no other package. The steps and their order are in gpu_steps/plan.py.
Each leaves its rows in a file of JSON lines as soon as they are there, and a table is printed last. Where a step fails,
ends its process or hangs, a row says so, and the others are run. The call ends with an error where a step failed or a
tolerance is broken, and not before all is done.

    PYTHONPATH=scripts python benchmarks/gpu.py --out gpu.jsonl                       # one GPU or several
    PYTHONPATH=scripts python benchmarks/gpu.py --out cpu.jsonl --device cpu --small  # proves that the script runs

Models and files, 9 GB, lie in the folder for temporary files: TMPDIR=/dev/shm has it in memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_steps.plan import BY_NAME, LIMIT_SECONDS, STEPS
from gpu_steps.runner import BROKEN, ENDED, ERROR, NEW_PROCESS, NO_DEVICE, WHAT, Rows

# A process that writes no row for so much longer than its step may take is ended; and one that does not end by itself
# so long after no step may begin any more.
SILENT_SECONDS, LAST_SECONDS = 60, 10
OVER, ABSENT = "the time of the call was over before, or in it", "there is no device"


def main() -> None:
    """Measure and print; or, as a child, run some steps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines that is written")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--small", action="store_true", help="two layers of width 64, and few sequences")
    parser.add_argument("--steps", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), help="(default: all)")
    parser.add_argument(
        "--seconds", type=float, default=LIMIT_SECONDS, help=f"no step begins later (default: {LIMIT_SECONDS})"
    )
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "DEADLINE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = Rows(options.out)
    if options.child:
        child(options, rows)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("")
    steps = [step.name for step in STEPS if step.name in options.steps]
    with tempfile.TemporaryDirectory() as folder:
        run_all(options, steps, rows, Path(folder), time.time() + options.seconds)
    found = rows.read()
    print_table(found)
    bad = [f"{row['step']}: {row[key]}" for row in found for key in (BROKEN, ERROR) if key in row]
    if bad or any(row.get(ENDED) == ABSENT for row in found):
        sys.exit("\n".join(["not all is as it should be", *bad]))


def run_all(options: argparse.Namespace, steps: list[str], rows: Rows, folder: Path, deadline: float) -> None:
    """Run steps in a process, and where it ends in one of them, those after it in another."""
    while steps:
        command = [sys.executable, "-u", __file__, "--out", str(options.out), "--device", options.device]
        command += ["--small"] * options.small + ["--child", str(folder), str(deadline), "--steps", *steps]
        process = subprocess.Popen(command)
        hung = watch(process, rows, steps, deadline, SILENT_SECONDS * (10 if options.small else 1))
        steps = remaining(rows, steps)
        if time.time() >= deadline or process.returncode == NO_DEVICE:
            for name in steps:
                rows.write(name, ended=ABSENT if process.returncode == NO_DEVICE else OVER)
            return
        if steps and process.returncode != NEW_PROCESS:
            why = "hung, and was killed" if hung else f"ended with {process.returncode}"
            rows.write(steps[0], error=f"its process {why}")
            rows.write(steps[0], ended=ERROR)
            steps = steps[1:]


def remaining(rows: Rows, steps: list[str]) -> list[str]:
    """Steps that have not ended."""
    ended = {row["step"] for row in rows.read() if ENDED in row}
    return [name for name in steps if name not in ended]


def watch(process: "subprocess.Popen[bytes]", rows: Rows, steps: list[str], deadline: float, patience: float) -> bool:
    """Wait for a process, and kill it where it hangs; whether it did."""
    begin, hung = time.time(), False
    while process.poll() is None:
        time.sleep(0.2)
        allowed = patience + sum(BY_NAME[name].seconds for name in remaining(rows, steps)[:1])
        silent = time.time() - max(begin, os.stat(rows.path).st_mtime)
        if silent > allowed or time.time() > deadline + LAST_SECONDS:
            process.kill()
            hung = True
    return hung


def child(options: argparse.Namespace, rows: Rows) -> None:
    """Run steps in this process."""
    import torch
    import transformers
    from embedome.common.errors import UserError
    from embedome.engine.device import use_device
    from gpu_steps.bench import Bench
    from gpu_steps.runner import run_steps

    try:
        device = use_device(options.device)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(NO_DEVICE)
    if device.type == "cpu":
        torch.set_num_threads(1)  # as the engine does
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder, deadline = options.child
    run_steps(Bench(device, options.small, Path(folder)), options.steps, rows, float(deadline))


def print_table(rows: list[dict]) -> None:
    """Print all rows, in columns."""
    width = min(80, max((len(row.get(WHAT, "")) for row in rows), default=0))
    for row in rows:
        numbers = [f"{key} {value}" for key, value in row.items() if key not in ("step", WHAT, "trace")]
        print(f"{row['step']:12} {row.get(WHAT, ''):{width}} {', '.join(numbers)}")


if __name__ == "__main__":
    main()
