"""One module per entrypoint: a Config, `build` as one visible chain, `run`, `main`."""

import logging

logging.disable(logging.WARNING)
import apache_beam  # noqa: E402, F401  Beam warns of optional Google clients whenever it is first imported

logging.disable(logging.NOTSET)
