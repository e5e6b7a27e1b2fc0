"""Every picture, page and curve."""
