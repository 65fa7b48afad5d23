"""What a report shows, worked out from a run directory's tables; `pipelines.report.page` and `pipelines.commands.show` print it."""
