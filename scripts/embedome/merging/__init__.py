"""The parts of all shards, verified and published as one data set; the account of the run."""
