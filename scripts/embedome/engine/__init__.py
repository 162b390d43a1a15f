"""Sequences in, vectors out, on one device, without padding."""
