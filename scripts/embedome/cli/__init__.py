"""The command `embedome`, one module per command: options are parsed, results printed, nothing else is done."""
