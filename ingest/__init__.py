"""The batch-ingest worker: scan, plan, embed, commit."""
