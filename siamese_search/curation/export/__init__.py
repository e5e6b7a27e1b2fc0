"""A gallery as a file for other programs: ``rows`` reads it, one module writes each format."""
