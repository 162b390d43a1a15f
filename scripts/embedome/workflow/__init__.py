"""What the Snakefile asks: is the configuration right, where is which file; and a run's folder, laid and cleaned."""
