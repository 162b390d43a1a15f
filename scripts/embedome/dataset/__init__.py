"""The table of embeddings: its format, reading it, exporting it, checking it, taking rows of an earlier one."""

from embedome.dataset.dataset import Dataset
from embedome.dataset.open import open_dataset

__all__ = ["Dataset", "open_dataset"]
