"""What the navigation shows, in order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    title: str
    path: str


NAVIGATION = (
    Item("Runs", "/"),
    Item("Launch", "/launch"),
    Item("Experiments", "/experiments"),
    Item("Sweeps", "/sweeps"),
    Item("Runtimes", "/runtimes"),
    Item("Webhooks", "/webhooks"),
    Item("Health", "/health"),
)
