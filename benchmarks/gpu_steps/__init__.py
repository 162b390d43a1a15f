"""The steps of benchmarks/gpu.py: each is a generator of rows, in a module by what it is about."""
