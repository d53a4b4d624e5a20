"""API keys: who may do what, for the API and the dashboard alike."""

from taskq_core.access.keys import ApiKey, NewKey, make_key, parse_token
from taskq_core.access.scopes import Scope, allows, check_scopes, require
from taskq_core.access.store import KeyStore

__all__ = [
    "ApiKey",
    "KeyStore",
    "NewKey",
    "Scope",
    "allows",
    "check_scopes",
    "make_key",
    "parse_token",
    "require",
]
