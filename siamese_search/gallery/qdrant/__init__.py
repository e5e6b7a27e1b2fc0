"""The server engine: galleries in a Qdrant server."""
