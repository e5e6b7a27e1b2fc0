"""The trained network: architecture, files on disk, and embedders that run it."""
