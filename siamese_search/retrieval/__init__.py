"""A query becomes ranked results."""
