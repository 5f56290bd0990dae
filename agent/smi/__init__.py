"""The seam between the SNMP engine and the model: bindings, stores, index codec, SET transactions."""

from agent.smi.bindings import Column, ModuleBinding, Scalar, Table
from agent.smi.errors import BindingError, ErrorStatus, SetError
from agent.smi.model import Change, ColumnWriter, IndexValues, Model, RowWriter, ScalarWriter

__all__ = [
    "BindingError",
    "Change",
    "Column",
    "ColumnWriter",
    "ErrorStatus",
    "IndexValues",
    "Model",
    "ModuleBinding",
    "RowWriter",
    "Scalar",
    "ScalarWriter",
    "SetError",
    "Table",
]
