"""An embedder that sees colours, a gallery in memory that can lie, and images with planted identities."""

from colours import embedder, make_images, memory_gallery  # noqa: F401 - fixtures
