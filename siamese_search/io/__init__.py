"""Files, bytes and images: what is read from a disk or a URL, and how it is written."""
