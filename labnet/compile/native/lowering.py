"""Direct lowering of functions to LLVM: Numba's types and implementations of operators, without its passes.

Generated functions, and most that they call, are loops over ranges and arithmetic on names of one type each. Their
syntax tree is walked once, and each expression is typed and lowered at the same time. Numba's passes over bytecode
compile what this module does not know.
"""

# mypy: ignore-errors
# Numba has no types.

import ast
import functools
import itertools
import linecache
import operator
from collections import Counter

import numpy as np
from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.callconv import create_error_model
from numba.core.cpu_options import FastMathOptions
from numba.core.fastmathpass import rewrite_module
from numba.core.funcdesc import ExternalFunctionDescriptor, FunctionDescriptor
from numba.core.imputils import builtin_registry
from numba.core.registry import cpu_target
from numba.core.typing import templates

from labnet.kernels.machine_code.cache import source_of

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_WORD = ir.IntType(64)
_numbers = itertools.count()


class Unsupported(Exception):
    """Numba's passes have to compile a function."""


@functools.lru_cache(64)
def _functions(source):
    """Return the syntax trees of the functions of a file by their first lines."""
    nodes = _defined(ast.parse(source).body)
    return {min(one.lineno for one in (node, *node.decorator_list)): node for node in nodes}


def _defined(statements):
    """Yield the functions that statements define, also within others."""
    for one in statements:
        if isinstance(one, ast.FunctionDef):
            yield one
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            yield from _defined(getattr(one, name, ()))


@functools.cache
def register_rest():
    """Register what Numba's passes need besides numbers and `math`, and NumPy's functions."""
    from numba.core.runtime import rtsys
    from numba.core.typing import npydecl
    from numba.cpython import builtins, rangeobj, tupleobj  # noqa: F401
    from numba.np import npyimpl

    context = cpu_target.target_context
    rtsys.initialize(context)
    for registry in (npyimpl.registry, builtin_registry):
        context.install_registry(registry)
    for registry in (npydecl.registry, templates.builtin_registry):
        context.typing_context.install_registry(registry)


@functools.cache
def _context(error_model, fastmath):
    """Return a context of Numba with these options."""
    context = cpu_target.target_context
    options = FastMathOptions(set(fastmath)) if fastmath else False
    found = context.subtarget(error_model=create_error_model(error_model, context), fastmath=options)

    def with_passes(*args, **named):
        """Compile what an implementation of Numba, such as that of `math.hypot`, has as a Python function."""
        register_rest()
        return context.compile_subroutine.__func__(found, *args, **named)

    found.compile_subroutine = with_passes
    return found


def _text(function):
    """Return the source of a function's file; for labnet's modules, the text that names cached machine code."""
    file, module = function.__code__.co_filename, function.__module__ or ""
    if module.startswith("labnet.") and not file.startswith("<"):
        return source_of(module).decode()
    return "".join(linecache.getlines(file))


def lower(library, function, args, flags, result=None):
    """Lower a function for types of arguments into a library; return its descriptor.

    Without a type of the result, the first ``return`` has it.

    Raises
    ------
    Unsupported
        If it holds anything but loops over ranges, conditions, and arithmetic on names that have one type each.
    """
    code = function.__code__
    node = _functions(_text(function)).get(code.co_firstlineno)
    if node is None or node.name != function.__name__:
        raise Unsupported("a function without a name of its own")
    context = _context(flags.error_model, frozenset(flags.fastmath.flags if flags.fastmath else ()))
    lowering = _Lowering(context, library.create_ir_module(function.__name__), function, args)
    try:
        with context.push_code_library(library):
            described = lowering.run(node, result, flags)
    except errors.NumbaError as error:
        raise Unsupported(str(error)) from error
    if context.fastmath:
        rewrite_module(lowering.module, context.fastmath)
    library.add_ir_module(lowering.module)
    return described


def _bound(node):
    """Return how often assignments bind each name of a function, and the names of its loop variables."""
    assigned, loops = Counter(), set()
    for one in ast.walk(node):
        targets = getattr(one, "targets", [getattr(one, "target", None)])
        names = {each.id for target in targets if target for each in ast.walk(target) if _is_stored(each)}
        if isinstance(one, ast.For):
            loops |= names
        else:
            assigned.update(names)
    return assigned, loops


def _is_stored(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


class _Lowering:
    """Lowers one function. An expression is a pair: its Numba type and its LLVM value."""

    def __init__(self, context, module, function, args):
        self.module = module
        self._context, self._typing = context, cpu_target.typing_context
        self._function, self._args = function, args
        closed = (cell.cell_contents for cell in function.__closure__ or ())
        self._outside = {**function.__globals__, **dict(zip(function.__code__.co_freevars, closed, strict=True))}
        #: Names that are bound once where they are visible, and those that are bound anew: type and memory.
        self._names, self._slots = {}, {}
        self._result = None
        self._loops = []

    def run(self, node, result, flags):
        """Lower the body; return the descriptor of the function."""
        function, names = self._function, [one.arg for one in node.args.args]
        if len(names) != len(self._args):
            raise Unsupported("other arguments than its parameters")

        uid = next(_numbers)  # functions of other closures may have the same name and types

        def described(result):
            return FunctionDescriptor(
                *(True, function.__module__, function.__qualname__, function.__qualname__, "", {}, result, {}),
                *(names, {}),
                argtypes=tuple(self._args),
                inline=flags.forceinline,
                noalias=flags.noalias,
                uid=uid,
            )

        found, convention = described(result or types.none), self._context.call_conv
        native = self._context.declare_function(self.module, found)
        self._builder = ir.IRBuilder(native.append_basic_block("entry"))
        values = convention.decode_arguments(self._builder, found.argtypes, native)
        assigned, loops = _bound(node)
        self._changing = {name for name, count in assigned.items() if count > 1 or name in names}
        if loops & {*assigned, *names}:
            raise Unsupported("a loop variable that is bound elsewhere, too")
        for name, kind, value in zip(names, self._args, values, strict=True):
            self._bind(name, (kind, value))
        body = self._builder.append_basic_block("body")
        entry = self._builder.block
        self._builder.position_at_end(body)
        self._suite(node.body)
        if not self._builder.block.is_terminated:
            self._return((types.none, self._context.get_dummy_value()))
        self._builder.position_at_end(entry)
        self._builder.branch(body)
        if result is None:  # it is known by now
            found, kind = described(self._result), convention.get_function_type(self._result, self._args)
            native.ftype, native.type, native.args[0].type = kind, kind.as_pointer(), kind.args[0]
        elif self._result != result:
            raise Unsupported("a result of another type")
        return found

    # Statements

    def _suite(self, statements):
        """Lower statements; names that they bind once are visible in them only."""
        outside = dict(self._names)
        for statement in statements:
            if self._builder.block.is_terminated:
                break
            self._statement(statement)
        self._names = outside

    def _statement(self, node):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                for target, found in zip(targets, [*map(self._value, values)], strict=True):
                    self._assign(target, found)
            case ast.Assign(targets=[target]):
                self._assign(target, self._value(node.value))
            case ast.AugAssign(target=target, op=op):
                values = self._value(target), self._value(node.value)
                self._assign(target, self._applied(_OPERATORS.get(type(op)), *values))
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr(value=value):
                self._value(value)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=bounds), orelse=[]):
                self._loop(name, bounds, node.body)
            case ast.If(test=test, body=body, orelse=orelse):
                self._choice(self._condition(test), lambda: self._suite(body), lambda: self._suite(orelse))
            case ast.Return(value=value) if value is not None:
                self._return(self._value(value))
            case _:
                raise Unsupported(type(node).__name__)

    def _return(self, found):
        kind, value = found
        if self._result is None:
            self._result = kind
            pointer = self._context.call_conv.get_function_type(kind, self._args).args[0]
            self._builder.function.args[0].type = pointer
        if kind != self._result:
            raise Unsupported("results of several types")
        convention = self._context.call_conv
        convention.return_value(self._builder, self._context.get_return_value(self._builder, kind, value))

    def _assign(self, target, found):
        match target:
            case ast.Name(id=name):
                self._bind(name, found)
            case ast.Subscript(value=base, slice=index):
                self._applied(operator.setitem, self._value(base), self._value(index), found)
            case _:
                raise Unsupported(type(target).__name__)

    def _bind(self, name, found):
        kind, value = found
        if name not in self._changing:
            self._names[name] = found
            return
        known = self._slots.get(name)
        if known is None:
            memory = cgutils.alloca_once(self._builder, self._context.get_value_type(kind), name=name)
            known = self._slots[name] = kind, memory
        if known[0] != kind:
            raise Unsupported("a name of several types")
        self._builder.store(value, known[1])

    def _loop(self, name, bounds, body):
        """Lower a loop over a range whose step is a constant."""
        step = ast.literal_eval(bounds[2]) if len(bounds) == 3 and _is_constant(bounds[2]) else 1
        if len(bounds) == 3 and not (_is_constant(bounds[2]) and step):
            raise Unsupported("a step that is no constant")
        if self._static(ast.Name("range")) is not range or name in self._loops:
            raise Unsupported("another range, or a loop within one of the same name")
        given = [self._value(one) for one in bounds[:2]]
        if any(kind != types.int64 for kind, _ in given):
            raise Unsupported("a range of other numbers than int64")
        first, end = [value for _, value in given] if len(given) == 2 else [_WORD(0), given[0][1]]
        builder = self._builder
        before, head = builder.block, builder.append_basic_block("loop")
        inside, after = builder.append_basic_block("turn"), builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        place = builder.phi(_WORD, name=name)
        place.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<" if step > 0 else ">", place, end), inside, after)
        builder.position_at_end(inside)
        outside, self._names = self._names, {**self._names, name: (types.int64, place)}
        self._loops.append(name)
        self._suite(body)
        self._loops.pop()
        self._names = outside
        if not builder.block.is_terminated:
            place.add_incoming(builder.add(place, _WORD(step), flags=["nsw"]), builder.block)
            builder.branch(head)
        builder.position_at_end(after)

    def _choice(self, condition, first, second):
        """Lower both sides of a condition; return what they return, and the blocks in which they end."""
        builder, found, is_left = self._builder, [], False
        blocks = [builder.append_basic_block(name) for name in ("then", "otherwise")]
        builder.cbranch(condition, *blocks)
        after = builder.append_basic_block("after")
        for block, side in zip(blocks, (first, second), strict=True):
            builder.position_at_end(block)
            found.append((side(), builder.block))
            if not builder.block.is_terminated:
                builder.branch(after)
                is_left = True
        builder.position_at_end(after)
        if not is_left:  # both sides return
            builder.unreachable()
        return found

    # Expressions

    def _value(self, node):
        """Return the type and value of an expression."""
        match node:
            case ast.Constant(value=number):
                return self._constant(number)
            case ast.Name(id=name) if name in self._names:
                return self._names[name]
            case ast.Name(id=name) if name in self._slots:
                kind, memory = self._slots[name]
                return kind, self._builder.load(memory)
            case ast.Name() | ast.Attribute():
                return self._constant(self._static(node))
            case ast.UnaryOp() if _is_constant(node):
                return self._constant(ast.literal_eval(node))
            case ast.UnaryOp(op=op, operand=operand):
                return self._applied(_OPERATORS.get(type(op)), self._value(operand))
            case ast.BinOp() if _is_number(node):  # as Python folds it
                return self._constant(_folded(node))
            case ast.BinOp(left=left, op=op, right=right):
                return self._applied(_OPERATORS.get(type(op)), self._value(left), self._value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._applied(_OPERATORS.get(type(op)), self._value(left), self._value(right))
            case ast.BoolOp(op=op, values=values):
                return self._logical(isinstance(op, ast.And), values)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self._condition(test)
                return self._chosen(condition, lambda: self._value(body), lambda: self._value(orelse))
            case ast.Subscript(value=base, slice=index):
                return self._applied(operator.getitem, self._value(base), self._value(index))
            case ast.Tuple(elts=parts) if all(map(_is_constant, parts)):
                numbers = [*map(ast.literal_eval, parts)]
                kind = types.Tuple([*map(types.literal, numbers)])
                return kind, self._context.make_tuple(self._builder, kind, [*map(_WORD, numbers)])
            case ast.Call(func=function, args=given, keywords=[]):
                given = [one for x in given for one in (x.value.elts if _is_spread(x) else [x])]
                return self._applied(self._static(function), *map(self._value, given))
        raise Unsupported(type(node).__name__)

    def _static(self, node):
        """Return the object that a name outside of the function stands for."""
        match node:
            case ast.Name(id=name) if name not in self._function.__code__.co_varnames:
                builtins = self._outside["__builtins__"]
                found = self._outside.get(name, Unsupported)
                if found is Unsupported:
                    found = (builtins if isinstance(builtins, dict) else vars(builtins)).get(name, Unsupported)
            case ast.Attribute(value=value, attr=name):
                found = getattr(self._static(value), name, Unsupported)
            case _:
                found = Unsupported
        if found is Unsupported:
            raise Unsupported(ast.unparse(node))
        return found

    def _constant(self, number):
        kinds = {bool: types.boolean, int: types.int64, float: types.float64}
        kind = kinds.get(type(number)) or self._typing.resolve_value_type(number)
        if kind is types.int64 and not -(2**63) <= number < 2**63:
            raise Unsupported("an integer of more than 64 bits")
        if not isinstance(kind, types.Number | types.Boolean):
            raise Unsupported(str(kind))
        return kind, self._context.get_constant(kind, number)

    def _condition(self, node):
        kind, value = self._value(node)
        return value if kind == types.boolean else self._applied(bool, (kind, value))[1]

    def _logical(self, is_and, values):
        """Lower ``and`` or ``or`` of truth values."""
        first, *others = values
        kind, value = self._value(first)
        if kind != types.boolean:
            raise Unsupported("a truth value of a number")
        if not others:
            return kind, value
        known = kind, ir.IntType(1)(not is_and)
        rest = [lambda: self._logical(is_and, others), lambda: known]
        return self._chosen(value, *(rest if is_and else rest[::-1]))

    def _chosen(self, condition, first, second):
        """Return one of two values, each of which is computed only where it is chosen."""
        builder = self._builder
        found = self._choice(condition, first, second)
        after = builder.block
        kind = self._typing.unify_types(*(kind for (kind, _), _ in found))
        if kind is None:
            raise Unsupported("a choice between values that have no common type")
        values = []
        for (own, value), block in found:
            with builder.goto_block(block):
                values.append((self._context.cast(builder, value, own, kind), block))
        builder.position_at_end(after)
        chosen = builder.phi(values[0][0].type)
        for value, block in values:
            chosen.add_incoming(value, block)
        return kind, chosen

    def _applied(self, function, *given):
        """Call a function or operator with values, converted to the types that Numba calls it with."""
        builder, context = self._builder, self._context
        if function is None:
            raise Unsupported("an operator")
        kinds = tuple(kind for kind, _ in given)
        if isinstance(function, types.Number | types.Boolean):
            ((kind, value),) = given
            return function, context.cast(builder, value, kind, function)
        signature, call = _implementation(context, function, kinds)
        pairs = zip(given, signature.args, strict=True)
        values = [context.cast(builder, value, kind, wanted) for (kind, value), wanted in pairs]
        return signature.return_type, call(builder, values)


def _is_constant(node):
    """Return whether an expression is a number, or one with a minus."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=number)):
            return type(number) in (int, float)
    return isinstance(node, ast.Constant)


def _folded(node):
    """Return the value of an expression of numbers."""
    if not isinstance(node, ast.BinOp):
        return ast.literal_eval(node)
    function = _OPERATORS.get(type(node.op))
    if function is None:
        raise Unsupported("an operator")
    try:
        return function(_folded(node.left), _folded(node.right))
    except (ArithmeticError, ValueError) as error:  # raised where it is computed
        raise Unsupported(str(error)) from None


def _is_number(node):
    """Return whether an expression has nothing but numbers."""
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return _is_constant(node)


def _is_spread(node):
    return isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple)


#: What Numba found for functions and types of arguments.
_known = {}


def _implementation(context, function, kinds):
    """Return the signature of a function for types of arguments, and what emits its call."""
    key = id(context), function, kinds
    if key in _known:
        return _known[key]
    if isinstance(function, np.ufunc):
        register_rest()
    typing = cpu_target.typing_context
    kind = typing.resolve_value_type(function)
    signature = typing.resolve_function_type(kind, kinds, {})
    if signature is None or len(signature.args) != len(kinds):
        raise Unsupported(str(function))
    if isinstance(kind, types.ExternalFunction):
        described = ExternalFunctionDescriptor(kind.symbol, signature.return_type, signature.args)

        def call(builder, values):
            native = context.declare_external_function(builder.module, described)
            return context.call_external_function(builder, native, described.argtypes, values)

    else:
        call = context.get_function(kind, signature)
    _known[key] = signature, call
    return signature, call
