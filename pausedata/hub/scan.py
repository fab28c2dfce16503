"""Looks for what must not be published, before anything is sent.

Keys are looked for everywhere; names and paths of this machine only in what pausedata and the
person wrote beside the corpus: in the corpus ``root`` is a word.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pausedata.core.progress import Advance
from pausedata.store.dataset import Table

# How the keys of well-known services look. RE2 and Python read these alike.
KEYS = {
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{36})",
    "GitLab token": r"\bglpat-[\w-]{20}",
    "OpenAI or Anthropic key": r"\bsk-(?:(?:proj|svcacct|ant-[a-z]+\d\d)-[\w-]{32}|\w{32})",
    "Stripe key": r"\b[sr]k_live_[A-Za-z0-9]{20}",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{16}",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "package index token": r"\bpypi-[A-Za-z0-9_-]{40}",
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[rn])+[\w+/=:]{10}",
}
# The values of environment variables with such names are secrets, however they look.
_SECRET_NAMES = re.compile(r"TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL")
_SHORTEST_SECRET = 12
_HOMES = re.compile(
    r"(?:(?<![\w.:/])|(?<=file://)|(?<=\b\w:))/(?:home|Users|root)/[\w.@+-]+"
    r"|[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/)[\w.@+ -]+"
)
_PATHS = re.compile(r"(?<![\w.:/~-])(/[\w.@+-]+(?:/[\w.@+-]+)+)")
# Names of accounts that belong to no person, and of machines without a name of their own.
_NOBODY = {
    "root", "user", "admin", "ubuntu", "debian", "ec2-user", "runner", "jovyan", "nobody",
    "docker", "localhost", "coder", "vscode", "worker", "node", "app", "test",
}  # fmt: skip
# Folders that are the same on all machines: a script's first line names them.
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "usr",
           "var"}  # fmt: skip
_PORTION = 4 << 20
_OVERLAP = 4096  # nothing that is looked for is longer


@dataclass(frozen=True)
class Hit:
    """Something that must not be sent, and where it stands."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Scanner:
    """Looks for this machine's secrets and names, and for what looks like a key."""

    def __init__(self, public: Iterable[str] = (), words: Iterable[str] = ()) -> None:
        """``public``: texts that may be published: Hub ids, and what a person allows.

        ``words``: names that are no finding even where this machine or its user is called so: the
        name that is published under, and those of tables and splits.
        """
        self._public = sorted(filter(None, public), key=len, reverse=True)
        self._secrets = own_secrets()
        self._pattern = "|".join(
            [f"(?:{pattern})" for pattern in KEYS.values()]
            + [re.escape(secret) for secret in self._secrets]
        )
        known = {word.lower() for word in words}
        self._names = {n: what for n, what in _own_names().items() if n.lower() not in known}

    def prose(self, where: str, text: str) -> Iterator[Hit]:
        """In text beside the corpus, as a card or manifest: keys, and names of this machine."""
        for number, line in enumerate(text.splitlines(), 1):
            for found in self._keys(line):
                yield Hit(f"{where}, line {number}", found)
            for found in self._machine(line):
                yield Hit(f"{where}, line {number}", found)

    def name(self, path: str) -> Iterator[Hit]:
        """In a file's name: the same."""
        for found in [*self._keys(path), *self._machine(path)]:
            yield Hit(f"the name of the file {self._masked(path)}", found)

    def table(self, table: Table, advance: Advance) -> Iterator[Hit]:
        """In the text of a table's shards: keys alone."""
        for shard in table.shards:
            rows = table.read(shard)
            for column in rows.column_names:
                for row in self._rows_with_keys(rows.column(column)):
                    id = rows.column("id")[row].as_py() if "id" in rows.column_names else row
                    id = self._masked(str(id))
                    for text in _texts(rows.column(column)[row].as_py()):
                        for found in self._keys(text):
                            yield Hit(f"{table.name}, {column} of {id!r}", found)
            advance(shard.rows)

    def file(self, where: str, path: Path) -> Iterator[Hit]:
        """In a trainer's file, unpacked where it is compressed: keys alone."""
        before = b""
        with pa.input_stream(str(path), compression="detect") as stream:
            while portion := stream.read(_PORTION):
                text = before + portion
                if self._matches(pa.array([text], pa.large_binary())).to_pylist()[0]:
                    for found in dict.fromkeys(self._keys(text.decode("utf-8", "replace"))):
                        yield Hit(where, found)
                    return
                before = text[-_OVERLAP:]

    def _keys(self, text: str) -> Iterator[str]:
        for public in self._public:
            text = text.replace(public, "")
        for what, pattern in KEYS.items():
            if (match := re.search(pattern, text)) and not match[0].endswith("EXAMPLE"):
                yield f"a {what} ({match[0][:6]}…)"
        for secret, name in self._secrets.items():
            if secret in text:
                yield f"the value of {name}"

    def _masked(self, text: str) -> str:
        """``text`` with its keys cut short: a message about a key does not repeat it."""
        return re.sub(self._pattern, lambda match: f"{match[0][:6]}…", text)

    def _machine(self, text: str) -> Iterator[str]:
        for public in self._public:
            text = text.replace(public, "")
        if match := _HOMES.search(text):
            yield f"a path of a machine ({match[0]})"
        else:
            for match in _PATHS.finditer(text):
                if _is_here(match[1]):
                    yield f"a path of this machine ({match[1]})"
                    break
        for name, what in self._names.items():
            if re.search(rf"(?<![\w@]){re.escape(name)}(?!\w)", text):
                yield f"{what} ({name})"

    def _rows_with_keys(self, column: pa.ChunkedArray) -> list[int]:
        """The rows of a column in whose text, however deep, something is found."""
        found: list[int] = []
        start = 0
        for chunk in column.chunks:
            found += [start + row for row in sorted(self._matching(chunk))]
            start += len(chunk)
        return found

    def _matching(self, array: pa.Array) -> set[int]:
        kind = array.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found = _call("indices_nonzero", pc.fill_null(self._matches(array), False))
            return set(found.to_pylist())
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            found = self._matching(_call("list_flatten", array))
            parents = _call("list_parent_indices", array) if found else []
            return {parents[k].as_py() for k in found}
        if pa.types.is_struct(kind):
            return set().union(*map(self._matching, array.flatten()))
        return set()

    def _matches(self, array: pa.Array) -> pa.Array:
        options = pc.MatchSubstringOptions(self._pattern)
        return pc.call_function("match_substring_regex", [array], options)  # RE2: always linear


def _call(function: str, array: pa.Array) -> pa.Array:
    return pc.call_function(function, [array])


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def own_secrets() -> dict[str, str]:
    """Secrets of this process and login, with where they come from."""
    from huggingface_hub import get_token

    found = {
        value: f"the variable {name}"
        for name, value in os.environ.items()
        if _SECRET_NAMES.search(name.upper()) and value.isprintable()
    }
    found[get_token() or ""] = "your Hugging Face token"
    # What begins like a path is that of a file that holds one.
    return {
        value: name
        for value, name in found.items()
        if len(value) >= _SHORTEST_SECRET and not value.startswith(("/", "~", "."))
    }


def _own_names() -> dict[str, str]:
    """This machine's user and host, and the user's addresses, with what each is."""
    names: dict[str, str] = {}
    try:
        accounts = {getpass.getuser(), *map(os.environ.get, ("USER", "LOGNAME", "USERNAME"))}
    except (OSError, KeyError):  # an account that the system does not know
        accounts = set()
    for account in accounts:
        names[account or ""] = "a user name of this machine"
    for host in {socket.gethostname(), socket.gethostname().partition(".")[0]}:
        names[host] = "this machine's name"
    for address in _addresses():
        names[address] = "your e-mail address"
    return {n: what for n, what in names.items() if len(n) > 2 and n.lower() not in _NOBODY}


def _addresses() -> set[str]:
    found = {os.environ.get(name, "") for name in ("EMAIL", "GIT_AUTHOR_EMAIL", "DEBEMAIL")}
    if git := shutil.which("git"):
        done = subprocess.run(
            [git, "config", "--global", "--get-all", "user.email"],
            capture_output=True,
            text=True,
            check=False,
        )
        found.update(done.stdout.split())
    return {address for address in found if "@" in address}


def _is_here(path: str) -> bool:
    """Whether the first folders of a path exist on this machine, so that it may be one of its."""
    parts = Path(path).parts
    try:
        return len(parts) > 2 and parts[1] not in _SYSTEM and Path(*parts[:3]).exists()
    except OSError:
        return False
