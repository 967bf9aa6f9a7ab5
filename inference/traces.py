"""What a bundle left in the process for good: the next model must not run in it, but in a fresh one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from inference.surroundings import limits, working_folder

_LIBRARIES: Final = frozenset({"torch", "monai", "numpy", "scipy", "inference", "study", "sr_writer", "pydicom"})
_BUILTIN: Final = ("builtins", "math", "os", "random", "time")
_OF_COMPILER: Final = ("torch._dynamo", "torch._inductor", "torch._functorch")
"""They rewrite what they find in themselves as they work."""
_WITH_CLASSES: Final = ("torch._tensor", "torch.nn.modules", "monai.data", "monai.inferers", "monai.transforms")
_WRAPS: Final = ("__wrapped__", "_torchdynamo_orig_callable")
_GUARD: Final = "/torch/_dynamo/mutation_guard.py"  # of how modules are made
_WRAPPERS: Final = ("/torch/_compile.py", "/torch/_dynamo/")
_HARMLESS_THREADS: Final = ("tqdm.", "torch.")
_HARMLESS_CHILDREN: Final = (
    b"torch/_inductor",
    b"multiprocessing.resource_tracker",
    b"multiprocessing/resource_tracker",
)
_PATIENCE_S: Final = 0.2
"""How long a thread that is about to end may take."""

_Names = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Traces:
    """What can not be put back, as it stood before a bundle ran."""

    names: dict[str, tuple[ModuleType | type, _Names]]
    codes: dict[FunctionType, object]
    threads: frozenset[threading.Thread]
    children: frozenset[int]
    limits: dict[int, tuple[int, int]]
    folder: Path | None

    @classmethod
    def found(cls) -> Traces:
        """Return how it stands."""
        names = {words: (space, _callables(space)) for words, space in _spaces()}
        functions = (each for _, table in names.values() for each in table.values())
        return cls(
            names=names,
            codes={each: each.__code__ for each in functions if isinstance(each, FunctionType)},
            threads=frozenset(threading.enumerate()),
            children=frozenset(_children()),
            limits=limits(),
            folder=working_folder(),
        )

    def left(self) -> list[str]:
        """Return in words what is there now that was not, or is another one."""
        words = sorted(set(self._replaced()))
        if names := sorted(thread.name for thread in self._new_threads()):
            words.append(f"threads that still run: {len(names)}")
        if children := set(_children()) - self.children:
            words.append(f"processes that still run: {len(children)}")
        if limits() != self.limits:
            words.append("a lower limit of the kernel")
        if working_folder() != self.folder:
            words.append("another working folder")
        return words

    def _replaced(self) -> Iterator[str]:
        """Give each function and class of a library that is another one."""
        for words, (space, before) in self.names.items():
            now = vars(space)
            for name, value in before.items():
                if now.get(name) is not value and not _is_compilers(now.get(name), value):
                    yield f"{words}.{name} replaced"
            if isinstance(space, type):
                inherited = [name for name in now.keys() - before.keys() if callable(now[name]) and _hides(space, name)]
                yield from (f"{words}.{name} replaced" for name in inherited)
        for function, code in self.codes.items():
            if function.__code__ is not code:
                yield f"{function.__module__}.{function.__qualname__} rewritten"

    def _new_threads(self) -> list[threading.Thread]:
        new = [each for each in set(threading.enumerate()) - self.threads if not _is_harmless(each)]
        for thread in new:
            thread.join(_PATIENCE_S / len(new))
        return [thread for thread in new if thread.is_alive()]


def _spaces() -> Iterator[tuple[str, ModuleType | type]]:
    """Give what holds the functions and classes that models are run with."""
    loaded: dict[str, Any] = dict(sys.modules)  # some stand for what could not be imported
    for name, module in loaded.items():
        if not isinstance(module, ModuleType) or name.startswith(_OF_COMPILER):
            continue
        if name.partition(".")[0] not in _LIBRARIES and name not in _BUILTIN:
            continue
        yield name, module
        if name.startswith(_WITH_CLASSES):
            own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
            yield from ((f"{name}.{each.__qualname__}", each) for each in own)
    torch: Any = sys.modules["torch"]
    yield from ((f"torch.{each.__name__}", each) for each in torch.Tensor.__mro__[:-1])


def _callables(space: ModuleType | type) -> _Names:
    is_class = isinstance(space, type)
    return {
        name: value
        for name, value in list(vars(space).items())
        if callable(value) or (is_class and isinstance(value, property | classmethod))
    }


def _is_compilers(found: object, before: object) -> bool:
    """Tell whether torch's compiler, when it is first imported, put itself around what was there."""
    place = str(getattr(getattr(found, "__code__", None), "co_filename", ""))
    wraps = any(getattr(found, name, None) is before for name in _WRAPS)
    return place.endswith(_GUARD) or (wraps and any(wrapper in place for wrapper in _WRAPPERS))


def _hides(space: type, name: str) -> bool:
    """Tell whether a name of a class hides one that it inherits."""
    return any(name in vars(parent) for parent in space.__mro__[1:-1])


def _is_harmless(thread: threading.Thread) -> bool:
    """Tell whether a thread is one that a library keeps for itself, to show progress say."""
    target = getattr(thread, "_target", None)
    module = str(getattr(target, "__module__", "") or type(thread).__module__)
    return isinstance(thread, threading._DummyThread) or f"{module}.".startswith(_HARMLESS_THREADS)


def _children() -> Iterator[int]:
    """Give the processes that this one started and that still run; none where the kernel does not tell."""
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            yield from (int(number) for number in file.read_text().split() if _works(Path("/proc") / number))


def _works(process: Path) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
    except OSError:
        return False
    return bool(command) and not any(words in command for words in _HARMLESS_CHILDREN)
