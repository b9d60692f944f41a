"""Small mistakes in a module, one at a time: what `mutate` writes into it.

Left out is what holds no numbers: texts, type hints, errors and messages, and keywords that say how rather than what.
"""

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS = {
    "Add": "Sub", "Sub": "Add", "Mult": "Div", "Div": "Mult", "FloorDiv": "Div Mult", "Mod": "FloorDiv", "Pow": "Mult",
    "BitAnd": "BitOr", "BitOr": "BitAnd", "LShift": "RShift", "RShift": "LShift",
    "Lt": "LtE Gt", "LtE": "Lt Gt", "Gt": "GtE Lt", "GtE": "Gt Lt", "Eq": "NotEq", "NotEq": "Eq", "Is": "IsNot", "IsNot": "Is",
    "In": "NotIn", "NotIn": "In", "And": "Or", "Or": "And",
}  # fmt: skip
PAIRS = (
    "min max, amin amax, argmin argmax, minimum maximum, sum mean, any all, ones zeros, cos sin, sqrt square, log exp, "
    "clamp_min clamp_max, std var, add_ sub_, mul_ div_, floor ceil, left right, first last"
)
NAMES = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
SAID = {"ConfigError", "announce", "say", "option", "print", "isinstance"}  # calls that hold no numbers
# And such keywords and methods.
HOW = {"strict", "device", "cache", "parallel", "forceinline", "encoding", "cpu", "numpy"}
BESIDE = {"cost", "activations", "check", "resolve", "prepare"}  # and functions: plans, and what can be asked for
WITHOUT = ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom


@dataclass(frozen=True)
class Mutant:
    """The bytes [start, end) of a module, and what takes their place; `lines` of theirs, and of the statement around them."""

    path: str
    start: int
    end: int
    text: str
    lines: tuple[int, int]
    statement: tuple[int, int]

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def compiles(self, source: bytes) -> bool:
        try:
            compile(self.applied(source), self.path, "exec")
        except SyntaxError:
            return False
        return True

    def diff(self, source: bytes) -> str:
        texts = (s.decode().splitlines() for s in (source, self.applied(source)))
        return "\n".join(list(difflib.unified_diff(*texts, lineterm="", n=1))[2:])


def mutants(path: str, source: bytes) -> Iterator[Mutant]:
    """All there are, in order; a few do not compile."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    for around, place, text in _mistakes(tree, tree):
        start, end = starts[place.lineno - 1] + place.col_offset, starts[place.end_lineno - 1] + place.end_col_offset
        head = around.body[0].lineno - 1 if hasattr(around, "body") else around.end_lineno
        statement = around.lineno, max(around.lineno, head)
        yield Mutant(path, start, end, text, (place.lineno, place.end_lineno), statement)


def _mistakes(node: ast.AST, statement: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """(the statement, a node in it, what may stand in its place) of all that may hold numbers."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            called = child.func if isinstance(child, ast.Call) else None
            if (
                not isinstance(child, ast.AST)
                or isinstance(child, WITHOUT)
                or (isinstance(child, ast.keyword) and child.arg in HOW)
                or (isinstance(child, ast.FunctionDef) and child.name in BESIDE)
                or getattr(called, "id", getattr(called, "attr", None)) in SAID
            ):
                continue
            around = child if isinstance(child, ast.stmt) else statement
            if isinstance(child, ast.expr | ast.stmt):
                yield from ((around, child, text) for text in _instead(child))
            if field == "test":
                yield around, child, f"(not ({ast.unparse(child)}))"
            yield from _mistakes(child, around)


def _instead(node: ast.AST) -> Iterator[str]:
    def other(**changes: object) -> str:
        new = copy.copy(node)
        vars(new).update(changes)
        text = ast.unparse(new)
        return f"({text})" if isinstance(new, ast.BinOp | ast.BoolOp | ast.Compare) else text

    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp():
            for kind in OPERATORS.get(type(node.op).__name__, "").split():
                yield other(op=getattr(ast, kind)())
        case ast.Compare():
            for i, op in enumerate(node.ops):
                for kind in OPERATORS[type(op).__name__].split():
                    yield other(ops=[*node.ops[:i], getattr(ast, kind)(), *node.ops[i + 1 :]])
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=int()):
            yield from (str(node.value + 1), f"({node.value - 1})")
        case ast.Constant(value=float()):
            yield repr(node.value * 1.1 if node.value else 0.1)
        case ast.Attribute(ctx=ast.Load()) if node.attr in NAMES:
            yield other(attr=NAMES[node.attr])
        case ast.Name(ctx=ast.Load()) if node.id in NAMES:
            yield NAMES[node.id]
        case ast.Attribute(attr="mT" | "T"):
            yield ast.unparse(node.value)
        case ast.Slice():
            yield from (other(**{side: None}) for side in ("lower", "upper") if getattr(node, side) is not None)
        case ast.Call():
            for i, keyword in enumerate(node.keywords):
                if keyword.arg not in HOW:
                    yield other(keywords=node.keywords[:i] + node.keywords[i + 1 :])
            if len(node.args) > 1:
                yield other(args=[node.args[1], node.args[0], *node.args[2:]])
            if isinstance(node.func, ast.Attribute) and node.func.attr not in HOW:
                yield ast.unparse(node.func.value)  # without the call
        case ast.Return(value=ast.Tuple()) if len(node.value.elts) > 1:
            yield f"return {', '.join(ast.unparse(v) for v in reversed(node.value.elts))}"
        case ast.Return(value=ast.expr()) if getattr(node.value, "value", node) is not None:
            yield "return None"
        case ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield "pass"
    if isinstance(node, ast.AugAssign):
        yield "pass"
