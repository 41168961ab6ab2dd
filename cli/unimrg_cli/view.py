"""What commands show, as a model whose JSON has keys in camel case."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class View(BaseModel):
    """Base of what a command shows."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)
