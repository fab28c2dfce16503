"""Jinja2 for a recipe's templates: sandboxed, strict, and safe for training text.

Plain Jinja2 writes ``None`` for a null and ``[1, 2]`` for a list, which a model would learn. Here
every output is checked: a null, a list, a mapping, or a number that is not turned into text on
purpose makes a bad row, and the error names the column.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.visitor import NodeTransformer

from pausedata.core.errors import UsageError

# Random values: the same recipe would give other examples each time.
UNREPEATABLE_GLOBALS, UNREPEATABLE_FILTERS = {"lipsum"}, {"random"}
# Filters that handle a null; all others would turn it into text.
NULL_SAFE_FILTERS = {"default", "d", "tojson", "pprint"}
GLOBALS = {k: v for k, v in DEFAULT_NAMESPACE.items() if k not in UNREPEATABLE_GLOBALS} | {
    "range": safe_range  # the sandbox's, which refuses to go on for ever
}


class UnfitValue(Exception):
    """A template writes a value that is no text; ``reason``: null or not_text."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Template:
    """One template of a recipe; ``key`` is where it stands there, such as ``response``.

    UsageError naming the key and the line where it is not Jinja2.
    """

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        try:
            tree = _ENVIRONMENT.parse(text)
            names = meta.find_undeclared_variables(tree)
            tree = _Checked(names).visit(tree)
            self._template = _ENVIRONMENT.from_string(tree, globals=GLOBALS)
        except jinja2.TemplateSyntaxError as error:
            message = (error.message or "").splitlines()[0]
            raise UsageError(f"{key}: line {error.lineno} of the template: {message}") from None
        self.names = frozenset(names)
        """Everything the template takes from outside: columns, and globals such as ``range``."""

    def render(self, columns: dict[str, Any]) -> str:
        """The text for a row. UnfitValue, or whatever Jinja2 and its filters raise."""
        return self._template.render(columns)


def _text(value: Any, what: str, column: bool) -> Any:
    """``value``, if it may be written; ``column``: whether it is a column as it stands."""
    _not_null(value, what)
    if isinstance(value, list | tuple | dict | set):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        raise UnfitValue(
            "not_text", f"'{what}' is {kind}: write a loop, or {{{{ {what} | join(', ') }}}}"
        )
    if isinstance(value, bytes | bytearray):
        raise UnfitValue("not_text", f"'{what}' is bytes")
    if column and not isinstance(value, str | jinja2.Undefined):
        kind = "true or false" if isinstance(value, bool) else f"no text ({type(value).__name__})"
        if isinstance(value, int | float) and not isinstance(value, bool):
            kind = "a number"
        raise UnfitValue(
            "not_text", f"'{what}' is {kind}: write {{{{ {what} | string }}}} if that is meant"
        )
    return value


def _not_null(value: Any, what: str) -> Any:
    if value is None:
        raise UnfitValue("null", f"'{what}' is null")
    return value


@jinja2.pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: Any = None) -> str:
    """Jinja2's join, which would write ``None`` for a null in the list."""
    items = list(value) if isinstance(value, Iterable) else value
    if attribute is None and isinstance(items, list) and None in items:
        raise UnfitValue("null", "a list that is joined holds a null")
    return _JINJA_JOIN(context, items, d, attribute)


class _Checked(NodeTransformer):
    """Adds the checks to a parsed template: around outputs, inputs of filters, and ``~``."""

    def __init__(self, columns: set[str]) -> None:
        self.columns = columns

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            child
            if isinstance(child, nodes.TemplateData)
            else self._call("_text", child, nodes.Const(self._is_column(child)))
            for child in node.nodes
        ]
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is not None and node.name not in NULL_SAFE_FILTERS:
            node.node = self._call("_not_null", node.node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._call("_not_null", child) for child in node.nodes]
        return node

    def _is_column(self, node: nodes.Expr) -> bool:
        return isinstance(node, nodes.Name) and node.name in self.columns

    def _call(self, check: str, node: nodes.Expr, *more: nodes.Expr) -> nodes.Expr:
        arguments = [nodes.Const(_spelled(node)), *more]
        return nodes.Filter(node, check, arguments, [], None, None, lineno=node.lineno)


def _spelled(node: nodes.Node) -> str:
    """``node`` roughly as the template has it, for messages."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_spelled(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        key = node.arg.value if isinstance(node.arg, nodes.Const) else "…"
        return f"{_spelled(node.node)}[{key!r}]" if key != "…" else f"{_spelled(node.node)}[…]"
    if isinstance(node, nodes.Filter) and node.node is not None:
        inner = _spelled(node.node)
        return inner if node.name in ("_text", "_not_null") else f"{inner} | {node.name}"
    name = node.find(nodes.Name)
    return name.name if name else "an expression"


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    # Globals go in with each template: here they would hide the columns of the same name.
    environment.globals.clear()
    for name in UNREPEATABLE_FILTERS:
        del environment.filters[name]
    environment.filters |= {"_text": _text, "_not_null": _not_null, "join": _join}
    return environment


_JINJA_JOIN: Any = FILTERS["join"]
_ENVIRONMENT = _environment()
