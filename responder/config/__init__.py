"""Configuration: TOML files and environment -> one frozen `Config`, or one line that says what is wrong.

`model` holds every key with its type and default, `units` and `names` read what an operator writes, `environment` and
`files` bring it together, `errors` words what is wrong, `notices` says what is valid and yet not to be relied on.
"""

from responder.config.activation import Inherited, inherit
from responder.config.departure import DKIM, Delivery, Provider, Relay, TLSPolicy
from responder.config.errors import ConfigError, Problem
from responder.config.files import DEFAULT_FILES, find, load, local_file
from responder.config.model import Answering, Config, Inbox, Log, Queue, Reply, schema_keys
from responder.config.names import BOUNCES, is_pattern
from responder.config.notices import Notice, unsupported
from responder.config.reception import (
    TLS,
    Auth,
    Authentication,
    Blocklists,
    Check,
    Decoy,
    Greylist,
    Limits,
    Listen,
)
from responder.config.units import Rate, format_duration, parse_duration

__all__ = [
    "BOUNCES",
    "DEFAULT_FILES",
    "DKIM",
    "TLS",
    "Answering",
    "Auth",
    "Authentication",
    "Blocklists",
    "Check",
    "Config",
    "ConfigError",
    "Decoy",
    "Delivery",
    "Greylist",
    "Inbox",
    "Inherited",
    "Limits",
    "Listen",
    "Log",
    "Notice",
    "Problem",
    "Provider",
    "Queue",
    "Rate",
    "Relay",
    "Reply",
    "TLSPolicy",
    "find",
    "format_duration",
    "inherit",
    "is_pattern",
    "load",
    "local_file",
    "parse_duration",
    "schema_keys",
    "unsupported",
]
