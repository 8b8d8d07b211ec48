"""The pages: each module here has a ``router``, and a folder of templates of its own.

A new page is a new module; nothing else has to name it. ``registry.NAVIGATION`` lists those that
the head of every page links to.
"""

import importlib
import pkgutil

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """The routers of all modules of this package, in the order of their names."""
    found: list[APIRouter] = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        router = getattr(module, "router", None)
        if isinstance(router, APIRouter):
            found.append(router)
    return found
