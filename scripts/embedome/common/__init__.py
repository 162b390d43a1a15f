"""What any program needs and nothing about proteins: errors, logs, processes, atomic files, locks, shared words."""
