"""The embedded engine: Qdrant Edge in a directory."""
