"""What a module may hold under its names: what it defines itself, and what it has from Python's standard library."""

from __future__ import annotations

import functools
import operator
import os
import shlex
from subprocess import Popen, run  # noqa: F401  # Which tests ask for by name.

VALUE = 1.5


class Own:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


def own() -> None: ...


own_instance = Own()
own_method = own_instance.method
own_partial = functools.partial(own)
own_cached = functools.cache(own)

system = os.system
opened = open
evaluated = eval
partial_of = functools.partial(eval, "1")
partial_twice = functools.partial(partial_of)
wrapped = functools.wraps(shlex.quote)(lambda text: text)
cached = functools.cache(os.system)
method_of = os.environ.setdefault
getter = operator.methodcaller("system", "true")
descriptor = str.upper
