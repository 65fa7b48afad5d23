"""One module per entrypoint: a Config, `build` as one visible chain, `run`, `main`."""

import contextlib
import logging

logging.disable(logging.WARNING)
with contextlib.suppress(ImportError):  # `alignbeam doctor` says what is wrong with it
    import apache_beam  # noqa: F401  Beam warns of optional Google clients whenever it is first imported

logging.disable(logging.NOTSET)
