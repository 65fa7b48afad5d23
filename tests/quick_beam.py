"""What Beam works out anew for every step of every pipeline, though it is the same each time: kept for a session.

A pipeline of a few rows spends a third of its time on parsing the same flags and on looking at the parameters of the
same methods. What is answered stays what Beam answers; tests that start a process of their own have Beam as it is.
"""

import copy
import types
import weakref

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

_parsed: dict = {}
_parameters: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_parse, _look = PipelineOptions.__init__, core.get_function_args_defaults


def remember() -> None:
    PipelineOptions.__init__ = _options
    core.get_function_args_defaults = _parameters_of


def _options(self, flags=None, **overrides):
    """As Beam's: flags parsed by the arguments of this class, overrides before them."""
    if flags is None or isinstance(flags, str):  # those of the process, or a mistake
        return _parse(self, flags, **overrides)
    key = (type(self), *flags)
    if key not in _parsed:
        _parse(self, flags)
        _parsed[key] = copy.deepcopy(self._visible_options)
    self._flags = flags
    self._visible_options = copy.deepcopy(_parsed[key])
    self._all_options = {**vars(self._visible_options), **overrides}
    return None


def _parameters_of(function):
    """As Beam's: names and defaults of the parameters, without `self` where it is bound."""
    plain, bound = getattr(function, "__func__", function), isinstance(function, types.MethodType)
    try:
        looks = _parameters.setdefault(plain, {})
    except TypeError:  # a builtin
        return _look(function)
    if bound not in looks:
        looks[bound] = _look(function)
    names, defaults = looks[bound]
    return list(names), list(defaults)
