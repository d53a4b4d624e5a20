"""The arguments of a function as a type: JSON Schema for the outside, a strict decoder for the inside."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

import msgspec

from taskq_core.errors import ConfigError, InvalidPayload, TooLarge
from taskq_core.model.codec import MAX_PAYLOAD, decode_json, encode_json

__all__ = ["Arguments", "ReturnType"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = (type(None), bool, int, float, str)
_DOC_LINES = 1


class Arguments:
    """What one function takes, by name."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """Raises ConfigError for a signature that JSON members cannot fill."""
        self._name = name
        hints = type_hints(name, function)
        parameters = list(inspect.signature(function).parameters.values())
        _refuse_unnamed(name, parameters)
        self.positional = tuple(p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD)
        rest = next((p.name for p in parameters if p.kind is Parameter.VAR_KEYWORD), None)
        self._rest: Any = None if rest is None else dict[str, hints.get(rest, Any)]
        named = [p for p in parameters if p.name != rest]
        self._names = frozenset(p.name for p in named)
        self._sparse = False
        self._type = self._make_type(named, hints)
        self.schema = self._make_schema(function)
        self._decode = self._make_decoder()

    def bind(self, payload: bytes) -> dict[str, Any]:
        """The keyword arguments that a payload stands for. Raises InvalidPayload naming the argument."""
        try:
            if self._rest is not None:
                return self._bind_open(payload)
            found = self._decode(payload)
        except msgspec.ValidationError as error:
            raise InvalidPayload(f"{self._name}: {_tell(str(error))}") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidPayload(f"{self._name}: the payload is not JSON: {error}") from None
        arguments = msgspec.structs.asdict(found)
        return _given(arguments) if self._sparse else arguments

    def encode(self, positional: tuple[Any, ...], named: Mapping[str, Any]) -> bytes:
        """The payload of a call. Raises InvalidPayload as `bind`, InvalidJson, TooLarge."""
        payload = encode_json(self._by_name(positional, named) if positional else named)
        if len(payload) > MAX_PAYLOAD:
            raise TooLarge(f"{self._name}: the payload has {len(payload)} bytes; the limit is {MAX_PAYLOAD}")
        self.bind(payload)
        return payload

    def _by_name(self, positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        if len(positional) > len(self.positional):
            raise InvalidPayload(
                f"{self._name}: {len(positional)} positional arguments, it takes {len(self.positional)}"
            )
        members = dict(zip(self.positional, positional, strict=False))
        twice = members.keys() & named.keys()
        if twice:
            raise InvalidPayload(f"{self._name}: {min(twice)!r} is given twice")
        return members | dict(named)

    def _bind_open(self, payload: bytes) -> dict[str, Any]:
        members = decode_json(payload)
        if not isinstance(members, dict):
            raise InvalidPayload(f"{self._name}: the payload must be a JSON object")
        given = typing.cast(dict[str, Any], members)
        own = {key: value for key, value in given.items() if key in self._names}
        rest = {key: value for key, value in given.items() if key not in self._names}
        arguments = msgspec.structs.asdict(msgspec.convert(own, self._type))
        return (_given(arguments) if self._sparse else arguments) | msgspec.convert(rest, self._rest)

    def _make_type(self, named: list[Parameter], hints: Mapping[str, Any]) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for parameter in named:
            hint = hints.get(parameter.name, Any)
            if parameter.default is Parameter.empty:
                fields.append((parameter.name, hint))
            elif type(parameter.default) in _SIMPLE:
                fields.append((parameter.name, hint, parameter.default))
            else:  # the function's own default applies: it may be no JSON, or shared and mutable
                self._sparse = True
                fields.append((parameter.name, hint | msgspec.UnsetType, msgspec.UNSET))
        return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=self._rest is None)

    def _make_decoder(self) -> Callable[[bytes], msgspec.Struct]:
        return msgspec.json.Decoder(self._type).decode

    def _make_schema(self, function: Callable[..., Any]) -> dict[str, Any]:
        try:
            whole = msgspec.json.schema(self._type)
            extra = True if self._rest is None else msgspec.json.schema(self._rest)
        except TypeError as error:
            raise ConfigError(f"task {self._name!r}: an argument's type is no JSON: {error}") from error
        definitions: dict[str, Any] = whole["$defs"]
        own = definitions.pop(whole["$ref"].rpartition("/")[2])
        own["title"] = self._name
        summary = (inspect.getdoc(function) or "").strip().splitlines()[:_DOC_LINES]
        if summary:
            own["description"] = summary[0]
        if isinstance(extra, dict):
            definitions |= extra.get("$defs", {})
            own["additionalProperties"] = extra.get("additionalProperties", True)
        schema = {"$schema": DIALECT, **own}
        return {**schema, "$defs": definitions} if definitions else schema


class ReturnType:
    """What a function returns, to give `result()` its type back."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        hint = type_hints(name, function).get("return", Any)
        try:
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(hint)
        except TypeError:  # a class that msgspec cannot build: the caller sees plain JSON
            self._decoder = msgspec.json.Decoder()

    def decode(self, result: bytes) -> Any:
        """The value of a stored result; plain JSON when it does not fit the annotation any more."""
        try:
            return self._decoder.decode(result)
        except msgspec.ValidationError:
            return msgspec.json.decode(result)


def type_hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, resolved. Raises ConfigError for a name that is not there."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"task {name!r}: {error}; the types of its arguments must be defined in its module"
        ) from error


def _refuse_unnamed(name: str, parameters: list[Parameter]) -> None:
    for parameter in parameters:
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"task {name!r}: {parameter.name!r} is positional-only; arguments travel by name"
            )
        if parameter.kind is Parameter.VAR_POSITIONAL:
            raise ConfigError(f"task {name!r}: *{parameter.name} has no names; take a list instead")


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not msgspec.UNSET}


def _tell(error: str) -> str:
    """`width: Expected `int`, got `str`` out of msgspec's `… - at `$.width``."""
    what, _, where = error.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    return f"{path}: {what}" if path else what
