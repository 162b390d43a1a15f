"""Encoders of our own, one module per architecture, for dense batches of equal-length sequences.

Shapes: B sequences, L tokens, D model dimension, H heads.
"""
