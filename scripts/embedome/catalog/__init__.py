"""The kept records, sorted by id, and how they were chosen."""
