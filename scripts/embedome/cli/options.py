"""The command-line options of all commands that run a model: on what, in which precision."""

import argparse

DEVICES = ("auto", "cpu", "cuda")


def add_machine_options(parser: argparse.ArgumentParser, *, int8: bool = False) -> None:
    """Add ``--model``, ``--device`` and ``--dtype``, with int8 where the command can."""
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="Hugging Face model directory")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one (default)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16", *(["int8"] if int8 else [])],
        default="float32",
        help=f"arithmetic of the model; float16 not for T5{', int8 on a CPU' if int8 else ''} (default: float32)",
    )


def chosen_device(options: argparse.Namespace) -> str:
    """The device asked for, or the one there is."""
    import torch

    if options.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return options.device
