"""Care for a store: re-indexing, verifying, copying."""
