"""Encoders of our own, one module per architecture, for dense batches of equal-length sequences.

A class is built from the fields of a config.json, and its `tensor_map` says what the tensors of a checkpoint are to it.
Attributes that all have are those of `grouped.StreamEncoder`.

Shapes: B sequences, L tokens, D model dimension, H heads.
"""
