"""Parquet as embedome writes it: the same bytes each time, checksums, float16 vectors, rows by id, sorting on disk."""
