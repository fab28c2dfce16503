"""The inside of `sandbox.py`: limits itself for good, then runs the program that it was given.

It is run by path, without site-packages, and imports nothing of pausedata.
"""

import ctypes
import importlib
import os
import platform
import resource
import signal
import struct
import sys

# What programs of this kind import. Once the filter stands no file can be opened, so that what is
# not here cannot be imported.
MODULES = (
    "__future__", "abc", "array", "asyncio", "base64", "binascii", "bisect", "calendar", "cmath",
    "collections", "collections.abc", "contextlib", "copy", "csv", "dataclasses", "datetime",
    "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io",
    "itertools", "json", "locale", "math", "numbers", "operator", "pathlib", "pprint", "queue",
    "random", "re", "secrets", "statistics", "string", "struct", "textwrap", "time", "traceback",
    "types", "typing", "unicodedata", "uuid", "zlib", "_strptime", "encodings.ascii",
    "encodings.latin_1", "encodings.utf_16", "encodings.idna",
)  # fmt: skip

# What asyncio brings along and a program does not get: it would be told that it may not only when
# it used them, and nothing that computes does.
REACHING = ("_posixsubprocess", "_socket", "_ssl", "socket", "ssl", "subprocess")

# What is let through, by its number on x86-64 and on ARM64 (None: there is no such call there).
# Nothing here opens, creates, connects, starts or signals anything.
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "writev": (20, 66), "close": (3, 57), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "futex": (202, 98), "sched_yield": (24, 124), "restart_syscall": (219, 128),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "getpid": (39, 172), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getrandom": (318, 278), "getrusage": (98, 165),
    "times": (100, 153), "rseq": (334, 293), "set_robust_list": (273, 99),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "arm64": (0xC00000B7, 1)}
_EPERM = 1


def read_parts() -> list[str]:
    """The word, the bytes of memory, the seconds, the tests, and the program's parts."""
    raw = sys.stdin.buffer.read()
    parts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 8], "big")
        parts.append(raw[at + 8 : at + 8 + size].decode("utf-8", "replace"))
        at += 8 + size
    return parts


def limit(memory: int, seconds: int) -> None:
    """What the process may take, from here on; of the seconds, those that it took count too."""
    for what, most, at_last in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # a signal, then the end
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (most, at_last))


def load() -> None:
    """Import what programs may import, and give asyncio a loop that opens nothing."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError:  # of another release of Python
            continue
    if "asyncio" in sys.modules:
        give_timers()
    for name in REACHING:
        sys.modules.pop(name, None)


def give_timers() -> None:
    """Let ``asyncio.run`` and ``asyncio.new_event_loop`` have a loop of tasks and timers alone.

    The usual one makes a pair of sockets to be woken by, which is refused here. There is nobody to
    wake this one: no thread, no file, no signal.
    """
    import asyncio
    import time

    class Nothing:
        """Waits for nothing but time; as long as it takes where no timer is set."""

        def select(self, timeout: "float | None") -> "list[object]":
            time.sleep(1e6 if timeout is None else max(0.0, timeout))
            return []

    class Timers(asyncio.BaseEventLoop):
        """Tasks and timers."""

        def __init__(self) -> None:
            super().__init__()
            self._selector = Nothing()

        def _process_events(self, event_list: "list[object]") -> None:
            pass

        def _write_to_self(self) -> None:
            pass

    try:

        class Policy(asyncio.DefaultEventLoopPolicy):
            """Of which a loop is asked."""

            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return Timers()

        asyncio.set_event_loop_policy(Policy())
    except AttributeError:  # later releases of Python have no policies: the usual loop is refused
        pass


def confine() -> None:
    """Refuse all system calls but those of ``ALLOWED``; OSError where the kernel does not."""
    architecture, column = _ARCHITECTURES[platform.machine()]
    numbers = [pair[column] for pair in ALLOWED.values() if pair[column] is not None]
    load, jump_equal, jump_greater, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | _EPERM, 0x80000000
    program = [
        (load, 0, 0, 4),  # the architecture that the call was made for
        (jump_equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the call's number
        (jump_greater, 0, 1, 0x40000000),  # x32, which has numbers of its own
        (give, 0, 0, refuse),
    ]
    # What its processor time ends is ended: it may not be told before, nor do without.
    program += [
        (jump_equal, 0, 4, ALLOWED["rt_sigaction"][column]),
        (load, 0, 0, 16),  # the low half of the first argument, the signal
        (jump_equal, 0, 1, signal.SIGXCPU),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    for number in numbers:
        program += [(jump_equal, 0, 1, number), (give, 0, 0, allow)]
    program.append((give, 0, 0, refuse))
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    held = ctypes.create_string_buffer(code, len(code))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    given = ctypes.create_string_buffer(filters, len(filters))
    no_new_privileges, set_seccomp, with_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(
        set_seccomp, with_filter, ctypes.byref(given), 0, 0
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ended_by(error: BaseException, testing: bool) -> str:
    """What an exception is told as."""
    if isinstance(error, AssertionError) and testing:
        return "failed"
    for kind, name in ((MemoryError, "memory"), (PermissionError, "forbidden")):
        if isinstance(error, kind):
            return name
    if isinstance(error, (SyntaxError, ValueError)) and not testing and _is_compiling(error):
        return "syntax"
    # Whatever is imported and not here: to look for it is refused.
    return "forbidden" if isinstance(error, ImportError) else "error"


def _is_compiling(error: BaseException) -> bool:
    return error.__traceback__ is None or error.__traceback__.tb_next is None


def main() -> None:
    """Read, limit, run, and say how it ended."""
    word, memory, seconds, tests, *code = read_parts()
    load()
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    limit(int(memory), int(seconds))
    try:
        confine()
    except OSError as error:
        os.write(out, f"{word} unconfined {error}".encode())
        return
    testing, result = False, "ok"
    space: dict[str, object] = {}  # as harnesses do it: what stands under __main__ is not run
    try:
        for part in code:
            exec(compile(part, "<answer>", "exec", dont_inherit=True), space)
        testing = True
        exec(compile(tests, "<tests>", "exec", dont_inherit=True), space)
    except BaseException as error:
        kind = ended_by(error, testing)
        del space
        try:
            result = f"{kind} {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        except BaseException:  # an exception that cannot say what it is, or no memory for it
            result = kind
    os.write(out, f"{word} {result}".encode("utf-8", "replace"))
    os._exit(0)  # nothing that the program left behind is run


if __name__ == "__main__":
    main()
