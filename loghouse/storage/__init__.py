"""The segmented log on disk."""
