"""The server engine: galleries in a Qdrant server."""

import os

# gRPC's core reads this when it is loaded, and writes lines of C++ to stderr otherwise: what matters is in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
