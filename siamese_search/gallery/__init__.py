"""The vector store: one contract, several engines. Nothing here knows about images."""
