"""The verb of the ingest worker, which stands in a package of its own."""

from ingest.run import ingest as ingest
from ingest.summary import IngestSummary as IngestSummary
