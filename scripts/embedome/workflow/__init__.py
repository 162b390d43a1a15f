"""What only the Snakefile asks: is the configuration right, and where is which file."""
