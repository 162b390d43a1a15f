"""Whole language models, head included: likelihood of sequences, masks filled, translation."""
