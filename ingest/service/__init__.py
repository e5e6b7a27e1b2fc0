"""The worker as a process: `python -m ingest`, with its log, its metrics and its health."""
