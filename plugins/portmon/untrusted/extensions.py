"""Channels and sources of other packages, by entry points.

An entry point is looked up only when the configuration names a type that portmon does not have, and no package is
imported before that. What can't be loaded becomes a stand-in that says so, so that the rest of the configuration goes
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import Any, Self

from pydantic import (
    BaseModel,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_serializer,
)
from pydantic.functional_serializers import WrapSerializer
from pydantic.functional_validators import WrapValidator

from portmon import timeouts
from portmon.errors import OverrunError
from portmon.untrusted.boundary import reason

CHANNELS, SOURCES = "portmon.channels", "portmon.sources"
"""Groups of entry points: the name of one is the `type` in portmon.yaml, its object is the class."""
IMPORT = timedelta(seconds=10)
"""For the import of a package."""


class StandIn(BaseModel):
    """What takes the place of a model that can't be used.

    :param given: its section of the configuration, which stays as it is
    :param why: it can't be used
    """

    given: Mapping[str, Any]
    why: str

    @classmethod
    def of(cls, given: Mapping[str, Any], why: str) -> Self:
        """The stand-in for a section."""
        kind = str(given.get("type"))
        own: dict[str, Any] = {"given": dict(given), "why": why, "type": kind, "name": str(given.get("name") or kind)}
        made: Self = cls.model_construct(**own)  # type: ignore[assignment]
        return made

    @model_serializer
    def _as_given(self) -> dict[str, Any]:
        return dict(self.given)


def others(group: str, base: type[Any], broken: type[StandIn]) -> tuple[WrapValidator, WrapSerializer]:
    """Lets a union of models by their `type` also take those of other packages.

    :param group: of the entry points
    :param base: which their classes must be subclasses of
    :param broken: takes the place of one that can't be used
    """
    stand_in = broken.of

    def read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            if not any(one["type"] == "union_tag_invalid" and not one["loc"] for one in error.errors()):
                raise
            point = _point(group, str(value["type"]))
            if point is None:
                raise
        try:
            model = timeouts.within(IMPORT, point.load)
            if not (isinstance(model, type) and issubclass(model, base) and issubclass(model, BaseModel)):
                return stand_in(value, f"{_named(point)} is no subclass of {base.__module__}.{base.__name__}")
            if isabstract(model):
                missing = ", ".join(sorted(model.__abstractmethods__))
                return stand_in(value, f"{_named(point)} has no method {missing}")
            return model.model_validate(value)
        except ValidationError:
            raise
        except OverrunError as error:
            return stand_in(value, f"{_named(point)} can't be imported: {error}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            why = reason(error) if isinstance(error, Exception) else type(error).__name__
            return stand_in(value, f"{_named(point)} can't be used: {why}")

    def written(value: Any, handler: SerializerFunctionWrapHandler) -> Any:
        known = type(value).__module__.startswith("portmon.") and not isinstance(value, broken)
        return handler(value) if known else value.model_dump(mode="json")

    return WrapValidator(read), WrapSerializer(written)


def _point(group: str, name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=group, name=name)), None)


def _named(point: EntryPoint) -> str:
    package = f" of the package {point.dist.name}" if point.dist else ""
    return f"{point.group} {point.name!r} ({point.value}){package}"
