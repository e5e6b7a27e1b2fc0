"""What is drawn comes from the same small world as what is measured."""

from colours import embedder, make_images, memory_gallery  # noqa: F401 - fixtures
