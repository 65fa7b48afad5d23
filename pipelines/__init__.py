"""One module per stage kind: a Config, `build` as one visible chain (or `do`), and its KIND."""

import contextlib
import logging

import alignbeam

alignbeam.refuse_intruders()  # `python -m pipelines.…` puts the folder it is started in before everything else

logging.disable(logging.WARNING)
with contextlib.suppress(ImportError):  # `alignbeam doctor` says what is wrong with it
    import apache_beam  # noqa: F401  Beam warns of optional Google clients whenever it is first imported

logging.disable(logging.NOTSET)
