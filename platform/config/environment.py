"""Reading the platform's own settings from the environment.

Every variable is read through one `Environment`, which remembers its name, default and help (a test holds
.env.example against that) and turns a bad value into a problem for a system check instead of a traceback.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from zoneinfo import available_timezones

import environ

T = TypeVar("T")

EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Variable:
    """One variable of the platform. `default` is what .env.example shows."""

    name: str
    default: str
    about: str


class Environment:
    """Typed reads that never raise: what is wrong is collected in `problems`."""

    def __init__(self) -> None:
        self.variables: dict[str, Variable] = {}
        self.problems: list[str] = []

    def load(self, path: str) -> None:
        """Take variables from a file of `NAME=value` lines; those already set win."""
        environ.Env.read_env(path)

    def text(self, name: str, default: str = "", *, about: str, shown: str | None = None) -> str:
        return str(self._read(name, default, str, about, shown))

    def integer(self, name: str, default: int, *, about: str, minimum: int = 0) -> int:
        value = int(self._read(name, default, int, about))
        if value < minimum:
            self.problems.append(f"{name} is {value}; write {minimum} or more.")
            return default
        return value

    def flag(self, name: str, default: bool, *, about: str) -> bool:
        raw = os.environ.get(name, "").strip().lower()
        self._remember(name, str(default).lower(), about)
        if raw in ("", "true", "1", "yes", "on"):
            return default if raw == "" else True
        if raw not in ("false", "0", "no", "off"):
            self.problems.append(f"{name} is {raw!r}; write true or false.")
            return default
        return False

    def items(self, name: str, default: list[str], *, about: str) -> list[str]:
        text = self._read(name, ",".join(default), str, about)
        return [item.strip() for item in text.split(",") if item.strip()]

    def choice(self, name: str, default: str, options: tuple[str, ...], *, about: str) -> str:
        value = str(self._read(name, default, str, f"{about}: {', '.join(options)}"))
        if value in options:
            return value
        self.problems.append(f"{name} is {value!r}; write one of {', '.join(options)}.")
        return default

    def url(self, name: str, default: str, parse: Callable[[str], T], *, about: str, example: str) -> T:
        """What `parse` makes of the variable. .env.example shows it empty: the default depends on the machine."""
        value = self._read(name, default, str, f"{about} (for example {example})", shown="")
        try:
            return parse(value)
        except Exception as error:  # noqa: BLE001 - parsers of other libraries raise what they like
            # Not the error's own words: they repeat pieces of the value, which may hold a password.
            self.problems.append(f"{name} cannot be read ({type(error).__name__}); write something like {example}.")
            return parse(default)

    def time_zone(self, name: str, default: str, *, about: str) -> str:
        """Checked here: Django itself stops with a traceback, before any check runs."""
        value = str(self._read(name, default, str, about))
        if value in available_timezones():
            return value
        self.problems.append(f"{name} is {value!r}; write a name such as Asia/Seoul.")
        return default

    def _read(self, name: str, default: Any, cast: type, about: str, shown: str | None = None) -> Any:
        self._remember(name, str(default) if shown is None else shown, about)
        raw = os.environ.get(name, "").strip()
        if raw == "":
            return default
        try:
            return cast(raw)
        except ValueError:
            self.problems.append(f"{name} is {raw!r}; write {EXPECTED[cast]}, such as {default}.")
            return default

    def _remember(self, name: str, default: str, about: str) -> None:
        self.variables[name] = Variable(name, default, about)
