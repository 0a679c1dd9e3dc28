"""What an operator may set of a hook: one table `[[hooks]]`.

[[hooks]]
url = "https://ipam.example/limosa"
secret_file = "/etc/limosa/ipam.secret"

[[hooks]]
command = ["/etc/limosa/hooks.d/dns"]
events = ["guest.moved"]

[[hooks]]
file = "/var/log/limosa/moves.jsonl"
"""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

SECONDS = 10.0
"""Seconds that an attempt may take where the hook does not say."""
LONGEST = 300.0


class HookConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One hook. Exactly one of `url`, `command` and `file` is set."""

    name: str = ""
    """What it is called in records, logs and `limosa hooks`; its target where it has none."""
    url: str = ""
    command: tuple[str, ...] = ()
    """A program by its whole path, and arguments."""
    file: str = ""
    """Where one line of JSON is added for each event."""
    events: tuple[str, ...] = ()
    """Kinds that it is told of, by name or as `guest.*`; all when empty."""
    secret_file: str = ""
    """Where the keys are that sign what goes to `url`, one a line."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=LONGEST)] = SECONDS
    """Seconds that one attempt may take."""
    ca: str = ""
    """Certificates that `url` is checked with; the system's when empty."""

    def __post_init__(self) -> None:
        """Say at once what makes no sense.

        Raises:
            ValueError: it does not.
        """
        if [bool(self.url), bool(self.command), bool(self.file)].count(True) != 1:
            raise ValueError("a hook has exactly one of url, command and file")
        if self.url:
            _require_url(self.url)
            if not self.secret_file:
                raise ValueError("a url needs a secret_file: without a signature anybody could tell it anything")
        elif self.secret_file or self.ca:
            raise ValueError("secret_file and ca go with url only")
        for path in (*self.command[:1], self.file, self.secret_file, self.ca):
            if path and not path.startswith("/"):
                raise ValueError(f"{path!r} must start with /")

    @property
    def kind(self) -> str:
        """`url`, `command` or `file`."""
        return "url" if self.url else "command" if self.command else "file"

    @property
    def target(self) -> str:
        """Where it goes; without what may be secret in a URL."""
        if self.url:
            split = urlsplit(self.url)
            return split._replace(netloc=split.netloc.rpartition("@")[2], query="", fragment="").geturl()
        return self.file or " ".join(self.command)

    @property
    def called(self) -> str:
        """Its name, or its target."""
        return self.name or self.target

    def wants(self, kind: str) -> bool:
        """Whether it is told of this kind of event."""
        return not self.events or any(
            kind == wanted or (wanted.endswith(".*") and kind.startswith(wanted[:-1])) for wanted in self.events
        )


def require_distinct(hooks: Sequence[HookConfig], kinds: Sequence[str]) -> None:
    """Check what can only be said of all hooks of a daemon together.

    Args:
        hooks: all of them.
        kinds: events that this daemon tells of.

    Raises:
        ValueError: two have one name, or one waits for what never happens.
    """
    names = [hook.called for hook in hooks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two hooks are called {name}: give one of them another `name`")
    for hook in hooks:
        for wanted in hook.events:
            if not any(HookConfig(file="/", events=(wanted,)).wants(kind) for kind in kinds):
                raise ValueError(f"{hook.called}: there is no event {wanted!r}; there are {', '.join(kinds)}")


def _require_url(url: str) -> None:
    split = urlsplit(url)
    if split.scheme not in {"http", "https"} or not split.hostname:
        raise ValueError(f"{url!r} is not a URL that can be called: write https://ipam.example/limosa")
