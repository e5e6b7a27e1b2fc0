"""Keeping a gallery in step with directories as they change."""
