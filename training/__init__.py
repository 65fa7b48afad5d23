"""Trainers: one module per model, each with a Config, `train` and `main`."""

import alignbeam

alignbeam.refuse_intruders()
