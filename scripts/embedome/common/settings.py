"""Settings of a stage: frozen dataclasses, made from a section of the configuration by their `from_config`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


def from_section(settings: type[Settings], section: Mapping[str, Any], **others: Any) -> Settings:
    """Make settings from a section's keys, each field from the key of its name, and from values that come elsewhere.

    A list becomes a tuple, as settings are immutable. Keys of the section that are no fields are for other stages.
    """
    names = [field.name for field in fields(settings) if field.init and field.name not in others]
    values = [tuple(value) if isinstance(value := section[name], list) else value for name in names]
    return settings(**dict(zip(names, values, strict=True)), **others)


@dataclass(frozen=True, slots=True)
class SectionSettings:
    """Base of settings that are a section of the configuration, key by key."""

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> Self:
        """Take the settings from their section of the configuration."""
        return from_section(cls, section)
