"""The strict base class of every message."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Frozen, and an unknown key is an error: a misspelt field must not vanish silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)
