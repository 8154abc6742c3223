"""How a unit of probability flows back through a network: the winner takes it in proportion.

The network is traced once, recorded operation by operation (`record`), and the mass is then handed from each
output to what went into it (`Tape.hand_back`). Only the operations of convolutional networks have a rule; any
other says so.

Rules, with x_i what goes in, w_ij the weights and P the mass (Zhang et al., IJCV 2018; biases are ignored):

- linear maps (matrix products, convolutions, sums): P_i = sum_j P_j c_ij / sum_i' c_i'j, with the
  contributions c_ij = max(w_ij x_i, 0);
- maxima and selections: to the winner; what only moves numbers (reshape, pad, slice): along with them;
- activation functions, scales and biases: unchanged.
Mass that nothing contributes to is lost.

Where activations are never negative that is the published rule. Where they can be (linear bottlenecks, the
normalised image), a negative x_i with a negative weight contributes too, and what made x_i negative is what
pulled it down: its mass carries a minus sign, and is shared by the contributions max(-w_ij x_i, 0). The
probability is the mass without its sign.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

_MOVES = {
    "reshape", "transpose", "slice", "squeeze", "pad", "concatenate", "broadcast_in_dim", "rev", "gather",
    "dynamic_slice", "convert_element_type", "copy", "copy_p", "expand_dims", "reduce_precision", "split",
}  # fmt: skip
_WINNERS = {"reduce_max", "reduce_window_max"}
_SHAPES = {
    "tanh", "logistic", "exp", "log", "log1p", "expm1", "sqrt", "cbrt", "erf", "integer_pow", "pow",
    "clamp", "stop_gradient", "square",
}  # fmt: skip
_ELEMENTWISE = {"max", "min", "add", "sub"}  # unchanged where only one operand carries mass
_LINEAR = {"dot_general", "conv_general_dilated", "reduce_sum", "reduce_window_sum", "cumsum"}
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Value(NamedTuple):
    """A value of the traced network, and its place in the record if it depends on the input."""

    value: Any
    place: int | None


class _Step(NamedTuple):
    """One operation of the record."""

    rule: Callable[..., list[Array | None]]
    run: Callable[..., Any]  # the operation itself, of all its operands
    operands: list[Value]
    places: list[int]  # of the outputs
    values: list[Any]  # of the outputs


class Tape:
    """The record of one pass through a network."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self._places = 0

    def place(self) -> int:
        """A new place in the record."""
        self._places += 1
        return self._places

    def hand_back(self, mass: Array, output: int, to: int, *, negate_top: bool = False) -> Array | None:
        """Mass at one place of the record, handed back to another; None where none arrives.

        Args:
          mass: of the output's shape; negative where the value is.
          output: its place.
          to: an earlier place.
          negate_top: the topmost weights are negated, which gives the evidence against.
        """
        held: dict[int, Array] = {output: mass}
        for step in reversed(self.steps):
            arrived = [held.pop(place, None) for place in step.places]
            if all(one is None for one in arrived):
                continue
            full = [
                jnp.zeros(value.shape, jnp.float32) if one is None else one
                for one, value in zip(arrived, step.values, strict=True)
            ]
            weighted = step.rule is _by_weights
            handed = step.rule(step, full, negate=True) if weighted and negate_top else step.rule(step, full)
            negate_top = negate_top and not weighted
            for operand, part in zip(step.operands, handed, strict=True):
                if operand.place is not None and part is not None:
                    known = held.get(operand.place)
                    held[operand.place] = part if known is None else known + part
        return held.get(to)


def record(function: Callable[[Array], Array], given: Array) -> tuple[Tape, Value, Value]:
    """Run a function and record it: the tape, its input and its output."""
    closed = jax.make_jaxpr(function)(given)
    tape = Tape()
    start = Value(given, tape.place())
    [output] = _follow(tape, closed.jaxpr, closed.consts, [start])
    return tape, start, output


def _follow(tape: Tape, program: Any, constants: Sequence[Any], given: Sequence[Value]) -> list[Value]:
    known: dict[Any, Value] = dict(zip(program.invars, given, strict=True))
    known |= {var: Value(value, None) for var, value in zip(program.constvars, constants, strict=True)}

    def read(atom: Any) -> Value:
        return Value(atom.val, None) if hasattr(atom, "val") else known[atom]

    for operation in program.eqns:
        found = _operation(tape, program, operation, [read(atom) for atom in operation.invars])
        known.update(zip(operation.outvars, found, strict=True))
    return [read(atom) for atom in program.outvars]


def _operation(tape: Tape, program: Any, operation: Any, operands: list[Value]) -> list[Value]:
    """Run one operation, and record it if the input takes part in it."""
    carries = [operand.place is not None for operand in operands]
    inner = _inner(operation)
    linear = inner is not None and _one_weight(operands) and _is_linear(inner, carries)
    if inner is not None and any(carries) and not linear:
        if operation.primitive.name in ("cond", "scan", "while"):
            _refuse(operation.primitive.name)
        return _follow(tape, inner[0].jaxpr, inner[0].consts, operands)
    run = _runner(program, operation)
    values = run(*(operand.value for operand in operands))
    if not any(carries) or not any(jnp.issubdtype(value.dtype, jnp.floating) for value in values):
        return [Value(value, None) for value in values]
    rule = _by_weights if linear else _rule(operation.primitive.name, carries)
    places = [tape.place() for _ in values]
    tape.steps.append(_Step(rule, run, operands, places, values))
    return [Value(value, place) for value, place in zip(values, places, strict=True)]


def _runner(program: Any, operation: Any) -> Callable[..., list[Any]]:
    """One operation as a function of its operands (those written into the program stay as they are)."""
    names = {atom: at for at, atom in enumerate(operation.invars) if not hasattr(atom, "val")}
    alone = program.replace(
        constvars=[],
        invars=list(names),
        outvars=operation.outvars,
        eqns=[operation],
        debug_info=program.debug_info.with_unknown_names(),
    )
    function = jaxpr_as_fun(ClosedJaxpr(alone, ()))
    return lambda *values: list(function(*(values[at] for at in names.values())))


# -------------------------------------------------------------------------------------- what is linear


def _inner(operation: Any) -> list[Any] | None:
    """The programs inside a call or a choice; None for a plain operation."""
    if "branches" in operation.params:
        return list(operation.params["branches"])
    for name in _CALLS:
        program = operation.params.get(name)
        if program is not None:
            return [program if hasattr(program, "consts") else ClosedJaxpr(program, ())]
    return ["loop"] if operation.primitive.name in ("scan", "while") else None


def _one_weight(operands: Sequence[Value]) -> bool:
    """One operand carries mass, and one of floats beside it holds the weights."""
    weights = [one for one in operands if one.place is None and _is_float(one)]
    return sum(one.place is not None for one in operands) == 1 and len(weights) == 1


def _is_linear(programs: Sequence[Any], carries: Sequence[bool]) -> bool:
    """Is every way through the programs linear in what carries mass, with weights and sums but no bias?"""
    for closed in programs:
        if isinstance(closed, str):
            return False
        given = carries[len(carries) - len(closed.jaxpr.invars) :]  # a choice's first operand chooses
        if not _is_linear_program(closed.jaxpr, given):
            return False
    return True


def _is_linear_program(program: Any, carries: Sequence[bool]) -> bool:
    carrying = {var for var, one in zip(program.invars, carries, strict=True) if one}
    for operation in program.eqns:
        given = [not hasattr(atom, "val") and atom in carrying for atom in operation.invars]
        if not any(given):
            continue
        name, inner = operation.primitive.name, _inner(operation)
        if inner is not None:
            if not _is_linear(inner, given):
                return False
        elif name in ("add", "add_any"):
            if not all(given):
                return False
        elif name in ("mul", "dot_general", "conv_general_dilated", "div"):
            if all(given) or (name == "div" and given[1]):
                return False
        elif name not in _MOVES and name not in _LINEAR:
            return False
        carrying.update(operation.outvars)
    return True


# ------------------------------------------------------------------------------------------------ rules


def _rule(name: str, carries: Sequence[bool]) -> Callable[..., list[Array | None]]:
    """The rule of a plain operation.

    Raises:
      NotImplementedError: it has none; names it.
    """
    if name in _MOVES or name in _WINNERS:
        return _by_gradient
    if name in ("dot_general", "conv_general_dilated") and sum(carries) == 1:
        return _by_weights
    if name in _LINEAR and len(carries) == 1:
        return _by_weights
    if name == "select_n":
        return _to_selected
    if (name == "mul" and sum(carries) == 1) or (name == "div" and list(carries) == [True, False]):
        return _scaled
    if name == "neg" or (name == "sub" and list(carries) == [False, True]):
        return _turned
    if name in _ELEMENTWISE | _SHAPES and sum(carries) == 1:
        return _unchanged
    if name in ("add", "sub", "add_any"):
        return _to_summands if name != "sub" else _to_difference
    if name in ("max", "min"):
        return _by_gradient
    _refuse(name)
    raise AssertionError


def _refuse(name: str) -> None:
    raise NotImplementedError(
        f"excitation backprop has no rule for the operation {name!r} on values that depend on the image; "
        "cut the network above it (see jaxplain.attributions.excitation)."
    )


def _unchanged(step: _Step, mass: list[Array]) -> list[Array | None]:
    return [None if operand.place is None else mass[0] for operand in step.operands]


def _turned(step: _Step, mass: list[Array]) -> list[Array | None]:
    return [None if operand.place is None else -mass[0] for operand in step.operands]


def _scaled(step: _Step, mass: list[Array]) -> list[Array | None]:
    """Unchanged, but for the sign of the scale."""
    [sign] = [jnp.sign(operand.value) for operand in step.operands if operand.place is None]
    return [None if operand.place is None else mass[0] * sign for operand in step.operands]


def _by_gradient(step: _Step, mass: list[Array]) -> list[Array | None]:
    """Along the derivative, which is 1 where a number comes from and 0 elsewhere."""
    return _vjp(step, [operand.value for operand in step.operands], mass)


def _to_selected(step: _Step, mass: list[Array]) -> list[Array | None]:
    which, *cases = step.operands
    chosen = which.value.astype(jnp.int32)
    return [None, *(jnp.where(chosen == number, mass[0], 0.0) for number in range(len(cases)))]


def _to_summands(step: _Step, mass: list[Array]) -> list[Array | None]:
    return _shared([operand.value for operand in step.operands], mass[0])


def _to_difference(step: _Step, mass: list[Array]) -> list[Array | None]:
    first, second = (operand.value for operand in step.operands)
    return _shared([first, -second], mass[0], (1.0, -1.0))


def _shared(
    summands: list[Array], mass: Array, signs: tuple[float, float] = (1.0, 1.0)
) -> list[Array | None]:
    """Positive mass to the positive summands, negative to the negative ones, in proportion."""
    shares = []
    for sign in (1.0, -1.0):
        parts = [jnp.maximum(sign * one, 0.0) for one in summands]
        share = sign * _ratio(jnp.maximum(sign * mass, 0.0), parts[0] + parts[1])
        shares.append([part * share for part in parts])
    return [sign * (above + below) for sign, above, below in zip(signs, *shares, strict=True)]


def _by_weights(step: _Step, mass: list[Array], negate: bool = False) -> list[Array | None]:
    """In proportion to the contributions: of w x to positive mass, of -w x to negative mass."""
    handed: list[Array | None] = [None] * len(step.operands)
    for target in (1.0, -1.0):  # which mass is shared
        weights = -target if negate else target
        sides = [(input_sign, _parts(step, input_sign, weights * input_sign)) for input_sign in (1.0, -1.0)]
        totals = [sum(outputs) for outputs in zip(*(step.run(*one) for _, one in sides), strict=True)]
        share = [
            _ratio(jnp.maximum(target * part, 0.0), total) for part, total in zip(mass, totals, strict=True)
        ]
        for input_sign, one in sides:
            for at, slope in enumerate(_vjp(step, one, share)):
                if slope is not None:
                    part, known = input_sign * one[at] * slope, handed[at]
                    handed[at] = part if known is None else known + part
    return handed


def _parts(step: _Step, input_sign: float, weight_sign: float) -> list[Any]:
    """Sizes of the inputs of one sign and of the weights of one sign, 0 for the others.

    A plain sum has no weights: all are 1, so that there is no negative one.
    """
    weighted = any(operand.place is None and _is_float(operand) for operand in step.operands)
    nothing = not weighted and weight_sign < 0
    return [
        operand.value
        if not _is_float(operand)
        else jnp.maximum((input_sign if operand.place is not None else weight_sign) * operand.value, 0.0)
        * (0.0 if nothing else 1.0)
        for operand in step.operands
    ]


def _is_float(operand: Value) -> bool:
    return jnp.issubdtype(jnp.asarray(operand.value).dtype, jnp.floating)


def _vjp(step: _Step, values: list[Any], cotangents: list[Array]) -> list[Array | None]:
    """Cotangents of the operands that carry mass, float32 also where the network computes in less."""
    carriers = [at for at, operand in enumerate(step.operands) if operand.place is not None]

    def of_carriers(*carried: Array) -> list[Any]:
        full = list(values)
        for at, value in zip(carriers, carried, strict=True):
            full[at] = value
        return step.run(*full)

    _, back = jax.vjp(of_carriers, *(values[at] for at in carriers))
    fitting = [one.astype(value.dtype) for one, value in zip(cotangents, step.values, strict=True)]
    handed: list[Array | None] = [None] * len(values)
    for at, slope in zip(carriers, back(fitting), strict=True):
        handed[at] = slope.astype(jnp.float32)
    return handed


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, 0 where nothing contributes."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)
