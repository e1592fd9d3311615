"""The HTTP server beside the one port: health for balancers, and whatever people and monitors look at."""
