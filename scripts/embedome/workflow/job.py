"""What Snakemake defines in the script of a rule, for the type checker alone."""

from typing import Any

snakemake: Any
