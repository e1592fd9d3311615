"""The `loghouse` command."""

import os

# gRPC's C core writes lines of its own to stderr; what it knows reaches us as errors, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
