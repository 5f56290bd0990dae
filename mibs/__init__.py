"""The MIB modules that the agent serves: sources (`src/`, `base/`), compiler (`build`) and loader."""

from mibs.loader import IndexPart, MibError, MibSet, Module, Object, Syntax, UnknownObject, load

__all__ = ["IndexPart", "MibError", "MibSet", "Module", "Object", "Syntax", "UnknownObject", "load"]
