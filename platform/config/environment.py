"""Reading the platform's own settings from the environment.

Every variable is read through one `Environment`, which remembers its name, default and help (a test holds
.env.example against that) and turns a bad value into a problem for a system check instead of a traceback.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

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
        self._env = environ.Env()
        self.variables: dict[str, Variable] = {}
        self.problems: list[str] = []

    def load(self, path: str) -> None:
        """Take variables from a file of `NAME=value` lines; those already set win."""
        self._env.read_env(path)

    def text(self, name: str, default: str = "", *, about: str, shown: str | None = None) -> str:
        return str(self._read(name, default, str, about, shown))

    def integer(self, name: str, default: int, *, about: str, minimum: int = 0) -> int:
        value = int(self._read(name, default, int, about))
        if value < minimum:
            self.problems.append(f"{name} is {value}; write {minimum} or more.")
            return default
        return value

    def flag(self, name: str, default: bool, *, about: str) -> bool:
        raw = str(self._env.str(name, default="")).strip().lower()
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
            self.problems.append(f"{name} cannot be read ({error}); write something like {example}.")
            return parse(default)

    def _read(self, name: str, default: Any, cast: type, about: str, shown: str | None = None) -> Any:
        self._remember(name, str(default) if shown is None else shown, about)
        raw = str(self._env.str(name, default="")).strip()
        if raw == "":
            return default
        try:
            return cast(raw)
        except ValueError:
            self.problems.append(f"{name} is {raw!r}; write {EXPECTED[cast]}, such as {default}.")
            return default

    def _remember(self, name: str, default: str, about: str) -> None:
        self.variables[name] = Variable(name, default, about)
