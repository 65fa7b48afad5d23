"""What a report shows, worked out from a run directory's tables."""
