"""Numbers about a data set, and the report."""
