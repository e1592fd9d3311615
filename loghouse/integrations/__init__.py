"""Loghouse within frameworks. Each needs an extra, and is imported by those who use it alone."""
