"""Settings of a stage: frozen dataclasses, made from a section of the configuration by their `from_config`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self, TypeVar

T = TypeVar("T")


def from_section(settings: type[T], section: Mapping[str, Any], **others: Any) -> T:
    """Make settings of a section's keys, each field of the key of its name, and of others that stand elsewhere.

    A list becomes a tuple, as settings are immutable. Keys of the section that are no fields are for other stages.
    """
    names = [field.name for field in fields(settings) if field.init and field.name not in others]
    values = [tuple(value) if isinstance(value := section[name], list) else value for name in names]
    return settings(**dict(zip(names, values, strict=True)), **others)


class SectionSettings:
    """Base of settings that are a section of the configuration, key by key."""

    __slots__ = ()

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> Self:
        """Take the settings of their section of the configuration."""
        return from_section(cls, section)
