"""Care for a gallery: what is in it twice, who is in it, labels by hand, and files for other programs."""
