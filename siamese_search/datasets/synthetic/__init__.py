"""Procedural pedestrians: who they are (people), how they look (figure), where (scenes), through what (cameras)."""
