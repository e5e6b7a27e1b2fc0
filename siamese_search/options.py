"""One request, one frozen dataclass: a field declares an option once, and every way to ask is made from it.

    flag        ``--batch-size``, or what ``flags`` says; a :class:`Switch` for each value that has a flag of its own
    variable    ``SSS_INGEST_BATCH_SIZE``: click's, from the command's and the field's name
    key         ``batch_size`` in the table ``[ingest]`` of ``sss.toml``
    keyword     ``sss.ingest(..., batch_size=32)``, by :func:`request`

A field without :func:`option` is for Python alone.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from siamese_search.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R", bound="Request")
T = TypeVar("T")
StrPath = str | os.PathLike[str]
#: Called with how many are done, and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Switch:
    """A flag without a value: where it is given, the field has ``value``."""

    name: str
    value: Any
    help: str


@dataclass(frozen=True, slots=True)
class Option:
    """What a field says of itself. help: "" where only its switches are on the command line.

    low, high: bounds, both allowed unless ``low_open``. flags: in place of ``--name``. named: the flag, variable and
    key, where the field has another name. many: may be given again. unsaid: the help names the default itself. refusal:
    of a value that cannot be (``{}``), in place of the usual sentence. typed: the default as one would type it. kind: a
    type, or what reads one from text.
    """

    help: str
    kind: Callable[[Any], Any] = str
    choices: Sequence[str] = ()
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    metavar: str | None = None
    flags: Sequence[str] = ()
    named: str = ""
    many: bool = False
    unsaid: bool = False
    refusal: str = ""
    typed: str = ""
    switches: Sequence[Switch] = ()


def option(default: Any, help: str, **how: Any) -> Any:
    """A field of a request that is an option; ``how``: fields of :class:`Option`. Its kind is its default's."""
    kind = type(default) if isinstance(default, bool | int | float) else str
    return field(default=default, metadata={"option": Option(help, **{"kind": kind, **how})})


def declared(cls: type[Request]) -> dict[str, Option]:
    """Field → option, of those that are options, in order."""
    return {one.name: one.metadata["option"] for one in fields(cls) if "option" in one.metadata}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a verb is asked for. Making one raises UsageError, naming the option, for a value that cannot be."""

    def __post_init__(self) -> None:
        for one in (one for one in fields(self) if "option" in one.metadata):
            value = getattr(self, one.name)
            if value is None and one.default is not MISSING:
                object.__setattr__(self, one.name, value := one.default)
            elif isinstance(value, Iterator):  # it is gone through more than once
                object.__setattr__(self, one.name, value := tuple(value))
            _check(one.name, value, one.metadata["option"])


#: What Python may give for a number (numpy's too), and how it is called.
_NUMBERS: dict[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}


def _check(name: str, value: Any, spec: Option) -> None:
    for one in value if spec.many and not isinstance(value, str | os.PathLike | Real) else [value]:
        if value is None:
            continue
        words = (spec.named or name).replace("_", " ")
        usual = ""
        if spec.kind in _NUMBERS and not isinstance(one, _NUMBERS[spec.kind][0]):
            usual = f"{words} must be {_NUMBERS[spec.kind][1]}, not {one!r}"
        elif spec.kind is str and (one is None or isinstance(one, Real)):
            usual = f"{words} must be text, not {one!r}"
        elif spec.choices and one not in spec.choices:
            usual = f"{name} is {one!r}; choose from {', '.join(spec.choices)}"
        elif spec.low is not None and not (one > spec.low if spec.low_open else one >= spec.low):  # nor NaN
            usual = f"{words} must be {'above' if spec.low_open else 'at least'} {spec.low}, not {one}"
        elif spec.high is not None and not one <= spec.high:
            usual = f"{words} must be at most {spec.high}, not {one}"
        if usual:
            raise UsageError(spec.refusal.format(one) or usual)


def request(cls: type[Request]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Let a function that takes ``options`` (keyword-only, a ``cls``) take each field of it as a keyword too.

    A keyword that the function itself has stays its own. ``help()`` explains each; to a type checker all are ``Any``.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        signature = inspect.signature(function)
        own = signature.parameters
        mine = [one for one in fields(cls) if one.name not in own]
        names = {one.name for one in mine}
        open_ended = any(one.kind is one.VAR_KEYWORD for one in own.values())

        @wraps(function)
        def call(*args: Any, options: Request | None = None, **keywords: Any) -> T:
            given = {name: keywords.pop(name) for name in names & keywords.keys()}
            for name in () if open_ended else keywords.keys() - own.keys():
                close = get_close_matches(name, {*names, *own}, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"{function.__name__}() has no option {name!r}{hint}")
            asked = cls(**given) if options is None else replace(options, **given) if given else options
            return function(*args, options=asked, **keywords)

        shown = [one for one in own.values() if one.name != "options"]
        extra = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
            for one in mine
        ]
        last = next((i for i, one in enumerate(shown) if one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD)), len(shown))
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by inspect
            parameters=[*shown[:last], *extra, *shown[last:]]
        )
        if function.__doc__:
            call.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{_explained(cls, names)}"
        return call

    return decorate


def _explained(cls: type[Request], names: Collection[str]) -> str:
    """A line for each of these options, in the words of its help."""
    return "\n".join(
        f"    {name}: {spec.help or '; '.join(f'{one.value!r}: {one.help}' for one in spec.switches)}"
        for name, spec in declared(cls).items()
        if name in names
    )


def click_option(cls: type[Request], name: str) -> Callable[[F], F]:
    """The field as a decorator of click's: its own option, then its switches."""
    import click

    spec = declared(cls)[name]
    default = cls.__dataclass_fields__[name].default
    shown = spec.named or name
    how: dict[str, Any] = {"help": spec.help, "metavar": spec.metavar}
    if spec.kind is bool:
        how["is_flag"] = True
    else:
        how |= {"type": _click_type(spec), "multiple": spec.many, "required": default is MISSING}
        if not (spec.unsaid or spec.many or default is MISSING):
            how["default"] = spec.typed or default

    def decorate(function: F) -> F:
        for one in reversed(spec.switches):
            switch = "--" + one.name.replace("_", "-")
            function = click.option(switch, one.name, is_flag=True, help=one.help)(function)
        flags = spec.flags or ["--" + shown.replace("_", "-")]
        return click.option(*flags, shown, **how)(function) if spec.help else function

    return decorate


def _click_type(spec: Option) -> Any:
    import click

    if spec.choices:
        return click.Choice(list(spec.choices))
    if spec.kind is Path:
        return click.Path(dir_okay=False, path_type=Path)
    if spec.kind not in (int, float) or (spec.low is None and spec.high is None):
        return spec.kind
    kind: Any = click.IntRange if spec.kind is int else click.FloatRange
    return kind(spec.low, spec.high, min_open=spec.low_open)


def click_options(
    cls: type[Request],
    *,
    into: str = "options",
    without: Collection[str] = (),
    after: Mapping[str, Sequence[Callable[[Any], Any]]] | None = None,
) -> Callable[[F], F]:
    """Give a command every option of ``cls``; its function gets them as one object, named ``into``.

    after: further decorators, to stand behind the option of that name in the help.
    """
    names = [name for name in declared(cls) if name not in without]

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            return function(*args, **{into: gathered(cls, names, keywords)}, **keywords)

        command: Any = call
        for name in reversed(names):
            for further in reversed((after or {}).get(name, ())):
                command = further(command)
            command = click_option(cls, name)(command)
        return command  # type: ignore[no-any-return]

    return decorate


def gathered(cls: type[R], names: Sequence[str], values: dict[str, Any]) -> R:
    """The request that click's values make; they are taken out of ``values``. The last switch that is given counts."""
    found: dict[str, Any] = {}
    for name in names:
        spec = declared(cls)[name]
        value = values.pop(spec.named or name) if spec.help else None
        for one in spec.switches:
            if values.pop(one.name):
                if spec.help and value not in (None, one.value):
                    raise UsageError(f"give either --{one.name} or --{name}, not both")
                value = one.value
        if value is not None:
            found[name] = value
    return cls(**found)


# Options that several requests share, spelled once: ``store: StrPath | None = shared.store()``.

store = partial(option, None, "Directory or URL of the vector store.  [default: .sss; SSS_STORE]", metavar="DIR|URL")
gallery = partial(option, None, "Gallery inside the store.  [default: default; SSS_GALLERY]", metavar="NAME")
model = partial(
    option,
    None,
    "Model bundle, or 'fast' for CPUs.  [default: the gallery's own, else the bundled one]",
    metavar="BUNDLE",
)
#: Named as in :mod:`siamese_search.datasets.layouts`.
layout = partial(
    option,
    "auto",
    "How identities are named on disk: folders (one per identity), market1501 (file names),"
    " csv, triplets (Anchor,Positive,Negative), flat (no identities).",
    choices=("auto", "folders", "market1501", "csv", "triplets", "flat"),
)
pattern = partial(
    option,
    None,
    "Fields from file names: a regular expression whose named groups they are, such as"
    r" '(?P<identity>.+)_cam(?P<camera>\d+)'.",
    metavar="REGEX",
)
batch_size = partial(option, None, "Images per forward pass.  [default: 64]", kind=int, low=1, metavar="N")
threads = partial(option, None, "CPU threads; 0 takes all.", kind=int, low=0, metavar="N")
#: Where a network only embeds.
embedding_device = partial(
    option,
    "auto",
    "Where the network runs: auto takes a CUDA GPU if torch is installed and sees one, else the CPU."
    " openvino: the CPU in bfloat16, faster where the processor has instructions for it.",
    choices=("auto", "cpu", "openvino", "cuda"),
)
#: Where a network learns.
training_device = partial(
    option,
    "auto",
    "Where the network runs; auto takes a CUDA GPU if torch is installed and sees one.",
    choices=("auto", "cpu", "cuda"),
)
#: Named as in :mod:`siamese_search.gallery.storage`, as is the next.
storage = partial(
    option, None, "How a new gallery stores its vectors; float16 takes half the space.", choices=("float32", "float16")
)
quantise = partial(
    option,
    None,
    "Search in a copy of the vectors of 8, 4 or 1 bits a number; results are scored exactly.",
    choices=("none", "int8", "int4", "binary"),
)
where = partial(option, (), 'Such as "camera=2"; may be repeated.', many=True, metavar="FILTER")
null = partial(option, False, "With --format paths: end each path with a zero byte, for xargs -0.")

#: What a layout begins with that is a pattern of names (:mod:`siamese_search.datasets.names`).
PATTERN = "pattern:"


def layout_of(options: Any) -> str:
    """The layout that a request with a ``layout`` and a ``pattern`` asks for, in one word; UsageError for both."""
    if options.pattern is None:
        return str(options.layout)
    if options.layout != "auto":
        raise UsageError("a pattern is a layout of its own; give either a layout or a pattern, not both")
    return f"{PATTERN}{options.pattern}"
