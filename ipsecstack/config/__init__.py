"""swanctl.conf and the certificate folders beside it -> dataclasses (docs/architecture.md, 'Configuration')."""

from ipsecstack.config.state import DesiredState, load_file
from ipsecstack.config.tree import ConfigError

__all__ = ["ConfigError", "DesiredState", "load_file"]
