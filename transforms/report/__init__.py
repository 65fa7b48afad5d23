"""What a report shows, worked out from a run directory's tables; `pipelines.report` and `pipelines.show` print it."""
