"""The command line, as `python -m embedome`."""

from embedome.cli.main import main

# Worker processes import this file.
if __name__ == "__main__":
    main()
