"""The command-line options of all commands that run a model: on what, in which precision."""

import argparse
import logging

log = logging.getLogger(__name__)

FASTA_HELP = "protein sequences; plain or compressed: .gz, .zst, .bz2, .xz, .zip"
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--device`` and ``--dtype``."""
    add_model_and_device(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="arithmetic of the model; float16 not for T5 (default: float32)",
    )


def add_engine_options(
    parser: argparse.ArgumentParser, auto: str = "bfloat16 on a GPU that has it, else float32"
) -> None:
    """Add what `add_machine_options` does, with what the engine can beyond it, and ``--fused``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    auto : str
        What is done where no ``--dtype`` is given.
    """
    add_model_and_device(parser)
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES, "int8"),
        default="auto",
        help=f"arithmetic of the model; float16 not for T5, int8 on a CPU (default: {auto})",
    )
    parser.add_argument("--fused", action="store_true", help="on a GPU: fewer passes over memory")


def add_model_and_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and ``--device``."""
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="Hugging Face model directory")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one (default)")


def choose_device(options: argparse.Namespace) -> str:
    """Return the device asked for, or the one there is."""
    import torch

    if options.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return options.device


def choose_dtype(options: argparse.Namespace, device: str) -> str:
    """Return the arithmetic asked for, or the fastest that is safe on the device."""
    import torch

    from embedome.engine.device import computes_bfloat16

    if options.dtype != "auto":
        return options.dtype
    # Of all that are visible, and none is claimed: processes that do the work claim one each.
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if device == "cuda" else []
    if gpus and all(map(computes_bfloat16, gpus)):
        log.info("the GPU multiplies bfloat16: vectors are made in it (--dtype float32 for more digits, far slower)")
        return "bfloat16"
    return "float32"
