"""Which record is in which split, and how honest that is."""
