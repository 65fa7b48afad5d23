"""Benchmarks. Some have models that are Python functions, which a process must opt in to (schemas.file_settings)."""

import os

os.environ.setdefault("ALIGNBEAM_SCRIPTED", "1")
