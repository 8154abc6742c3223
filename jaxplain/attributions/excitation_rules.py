"""Rules for excitation backprop: how each operation distributes relevance among its inputs.

The network is traced once and recorded operation by operation (`record`); relevance is then passed from the
output of each operation to its inputs (`Recording.pass_down`). Only operations used in convolutional networks
have rules; any other operation raises an error that names it.

Rules, with inputs x_i, weights w_ij and relevance P (Zhang et al., IJCV 2018; biases are ignored):

- linear maps (matrix products, convolutions, sums): P_i = sum_j P_j c_ij / sum_i' c_i'j, with the
  contributions c_ij = max(w_ij x_i, 0);
- maxima and selections: all relevance goes to the winner;
- operations that only rearrange values (reshape, pad, slice): relevance moves with the values;
- activation functions, scales and biases: relevance is unchanged.

If no input contributes to an output, its relevance is lost.

If activations are never negative, this is the published rule. If they can be (linear bottlenecks, the
normalized image), a negative x_i with a negative weight also contributes. Because x_i is negative due
to the inputs that lowered it, its relevance has a minus sign and is distributed in proportion to the
contributions max(-w_ij x_i, 0). The probability is the absolute value of the relevance.
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
_ACTIVATIONS = {
    "tanh", "logistic", "exp", "log", "log1p", "expm1", "sqrt", "cbrt", "erf", "integer_pow", "pow",
    "clamp", "stop_gradient", "square",
}  # fmt: skip
_ELEMENTWISE = {"max", "min", "add", "sub"}  # relevance is unchanged if only one operand depends on the input
_LINEAR = {"dot_general", "conv_general_dilated", "reduce_sum", "reduce_window_sum", "cumsum"}
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class TracedValue(NamedTuple):
    """A value in the traced network, with its slot in the recording if the value depends on the input."""

    value: Any
    slot: int | None


class _RecordedOperation(NamedTuple):
    rule: Callable[..., list[Array | None]]
    run: Callable[..., Any]  # the operation itself, as a function of all its operands
    operands: list[TracedValue]
    slots: list[int]  # slots of the outputs
    values: list[Any]  # values of the outputs


class Recording:
    """The operations in a forward pass that depend on the input; created by `record`."""

    def __init__(self, given: Array) -> None:
        self.operations: list[_RecordedOperation] = []
        self._slots = 0
        self.input = TracedValue(given, self.new_slot())
        self.output = TracedValue(None, None)

    def new_slot(self) -> int:
        """Allocate a slot and return its number."""
        self._slots += 1
        return self._slots

    def pass_down(self, relevance: Array, *, negate_top: bool = False) -> Array:
        """Pass relevance from the output to the input.

        Args:
          relevance: the output's relevance, in the same shape; negative where the output is.
          negate_top: whether to negate the topmost weights, to get the evidence against the class.

        Returns:
          The input's relevance, in the same shape; zero if the output does not depend on the input.
        """
        relevances: dict[int | None, Array] = {self.output.slot: relevance}
        for operation in reversed(self.operations):
            incoming = [relevances.pop(slot, None) for slot in operation.slots]
            if all(part is None for part in incoming):
                continue
            full = [
                jnp.zeros(value.shape, jnp.float32) if part is None else part
                for part, value in zip(incoming, operation.values, strict=True)
            ]
            is_weighted = operation.rule is _by_weights
            options = {"negate": True} if is_weighted and negate_top else {}
            passed = operation.rule(operation, full, **options)
            negate_top = negate_top and not is_weighted
            for operand, part in zip(operation.operands, passed, strict=True):
                if operand.slot is not None and part is not None:
                    relevances[operand.slot] = (
                        part + relevances[operand.slot] if operand.slot in relevances else part
                    )
        empty = jnp.zeros(self.input.value.shape, jnp.float32)
        return empty if self.output.slot is None else relevances.get(self.input.slot, empty)


def record(function: Callable[[Array], Array], given: Array) -> Recording:
    """Run a function of one array and record its operations.

    Raises:
      NotImplementedError: an operation has no rule; the message names the operation.
    """
    closed = jax.make_jaxpr(function)(given)
    recording = Recording(given)
    [recording.output] = _follow(recording, closed.jaxpr, closed.consts, [recording.input])
    return recording


def _follow(
    recording: Recording, program: Any, constants: Sequence[Any], given: Sequence[TracedValue]
) -> list[TracedValue]:
    known: dict[Any, TracedValue] = dict(zip(program.invars, given, strict=True))
    known |= {var: TracedValue(value, None) for var, value in zip(program.constvars, constants, strict=True)}

    def read(atom: Any) -> TracedValue:
        return TracedValue(atom.val, None) if hasattr(atom, "val") else known[atom]

    for operation in program.eqns:
        outputs = _run_and_record(recording, program, operation, [read(atom) for atom in operation.invars])
        known.update(zip(operation.outvars, outputs, strict=True))
    return [read(atom) for atom in program.outvars]


def _run_and_record(
    recording: Recording, program: Any, operation: Any, operands: list[TracedValue]
) -> list[TracedValue]:
    """Run one operation, and record it if an operand depends on the input."""
    dependent = [operand.slot is not None for operand in operands]
    inner = _inner_programs(operation)
    linear = inner is not None and _has_one_weight(operands) and _are_linear(inner, dependent)
    if inner is not None and any(dependent) and not linear:
        if operation.primitive.name in ("cond", "scan", "while"):
            _refuse(operation.primitive.name)
        return _follow(recording, inner[0].jaxpr, inner[0].consts, operands)
    run = _as_function(program, operation)
    values = run(*(operand.value for operand in operands))
    if not any(dependent) or not any(jnp.issubdtype(value.dtype, jnp.floating) for value in values):
        return [TracedValue(value, None) for value in values]
    rule = _by_weights if linear else _rule(operation.primitive.name, dependent)
    slots = [recording.new_slot() for _ in values]
    recording.operations.append(_RecordedOperation(rule, run, operands, slots, values))
    return [TracedValue(value, slot) for value, slot in zip(values, slots, strict=True)]


def _as_function(program: Any, operation: Any) -> Callable[..., list[Any]]:
    """Return one operation as a function of its operands (literals in the program are kept)."""
    indices = {atom: index for index, atom in enumerate(operation.invars) if not hasattr(atom, "val")}
    alone = program.replace(
        constvars=[],
        invars=list(indices),
        outvars=operation.outvars,
        eqns=[operation],
        debug_info=program.debug_info.with_unknown_names(),
    )
    function = jaxpr_as_fun(ClosedJaxpr(alone, ()))
    return lambda *values: list(function(*(values[index] for index in indices.values())))


# ---------------------------------------------------------------------------------------------------------
# Which operations are linear


def _inner_programs(operation: Any) -> list[Any] | None:
    """Return the programs inside a call or a conditional; None for a plain operation."""
    if "branches" in operation.params:
        return list(operation.params["branches"])
    for name in _CALLS:
        program = operation.params.get(name)
        if program is not None:
            return [program if hasattr(program, "consts") else ClosedJaxpr(program, ())]
    return ["loop"] if operation.primitive.name in ("scan", "while") else None


def _has_one_weight(operands: Sequence[TracedValue]) -> bool:
    """Return whether one operand depends on the input and one other operand of floats holds the weights."""
    weights = [operand for operand in operands if operand.slot is None and _is_float(operand)]
    return sum(operand.slot is not None for operand in operands) == 1 and len(weights) == 1


def _are_linear(programs: Sequence[Any], dependent: Sequence[bool]) -> bool:
    """Return whether all programs are linear in the dependent operand: weights and sums, no bias."""
    for closed in programs:
        if isinstance(closed, str):
            return False
        # A conditional's first operand selects the branch.
        given = dependent[len(dependent) - len(closed.jaxpr.invars) :]
        if not _is_linear_program(closed.jaxpr, given):
            return False
    return True


def _is_linear_program(program: Any, dependent: Sequence[bool]) -> bool:
    known = {var for var, flag in zip(program.invars, dependent, strict=True) if flag}
    for operation in program.eqns:
        given = [not hasattr(atom, "val") and atom in known for atom in operation.invars]
        if not any(given):
            continue
        name, inner = operation.primitive.name, _inner_programs(operation)
        if inner is not None:
            if not _are_linear(inner, given):
                return False
        elif name in ("add", "add_any"):
            if not all(given):
                return False
        elif name in ("mul", "dot_general", "conv_general_dilated", "div"):
            if all(given) or (name == "div" and given[1]):
                return False
        elif name not in _MOVES and name not in _LINEAR:
            return False
        known.update(operation.outvars)
    return True


# ---------------------------------------------------------------------------------------------------------
# Rules: from the relevance of an operation's outputs to that of its operands


def _rule(name: str, dependent: Sequence[bool]) -> Callable[..., list[Array | None]]:
    """Return the rule for an operation without inner programs.

    Raises:
      NotImplementedError: there is no rule for the operation; the message names it.
    """
    if name in _MOVES or name in _WINNERS:
        return _by_gradient
    if name in ("dot_general", "conv_general_dilated") and sum(dependent) == 1:
        return _by_weights
    if name in _LINEAR and len(dependent) == 1:
        return _by_weights
    if name == "select_n":
        return _to_selected
    if (name == "mul" and sum(dependent) == 1) or (name == "div" and list(dependent) == [True, False]):
        return _by_sign_of_scale
    if name == "neg" or (name == "sub" and list(dependent) == [False, True]):
        return _negated
    if name in _ELEMENTWISE | _ACTIVATIONS and sum(dependent) == 1:
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
        "cut the network above it (see jaxplain.attributions.winning_probabilities)."
    )


def _unchanged(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    return [None if operand.slot is None else relevance[0] for operand in operation.operands]


def _negated(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    return [None if operand.slot is None else -relevance[0] for operand in operation.operands]


def _by_sign_of_scale(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    [sign] = [jnp.sign(operand.value) for operand in operation.operands if operand.slot is None]
    return [None if operand.slot is None else relevance[0] * sign for operand in operation.operands]


def _by_gradient(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    """Pass relevance along the derivative, which is 1 at the source of each value and 0 elsewhere."""
    return _cotangents(operation, [operand.value for operand in operation.operands], relevance)


def _to_selected(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    selector, *cases = operation.operands
    chosen = selector.value.astype(jnp.int32)
    return [None, *(jnp.where(chosen == number, relevance[0], 0.0) for number in range(len(cases)))]


def _to_summands(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    return _by_size([operand.value for operand in operation.operands], relevance[0])


def _to_difference(operation: _RecordedOperation, relevance: list[Array]) -> list[Array | None]:
    first, second = (operand.value for operand in operation.operands)
    return _by_size([first, -second], relevance[0], (1.0, -1.0))


def _by_size(
    summands: list[Array], relevance: Array, signs: tuple[float, float] = (1.0, 1.0)
) -> list[Array | None]:
    """Distribute relevance in proportion to the summands of the same sign."""
    shares = []
    for sign in (1.0, -1.0):
        parts = [jnp.maximum(sign * summand, 0.0) for summand in summands]
        share = sign * _ratio(jnp.maximum(sign * relevance, 0.0), parts[0] + parts[1])
        shares.append([part * share for part in parts])
    return [sign * (above + below) for sign, above, below in zip(signs, *shares, strict=True)]


def _by_weights(
    operation: _RecordedOperation, relevance: list[Array], negate: bool = False
) -> list[Array | None]:
    """Distribute positive relevance in proportion to w x, negative relevance in proportion to -w x."""
    passed: list[Array | None] = [None] * len(operation.operands)
    for sign in (1.0, -1.0):  # sign of the relevance
        weight_sign = -sign if negate else sign
        sides = [(x_sign, _parts(operation, x_sign, weight_sign * x_sign)) for x_sign in (1.0, -1.0)]
        totals = [
            sum(outputs) for outputs in zip(*(operation.run(*parts) for _, parts in sides), strict=True)
        ]
        share = [
            _ratio(jnp.maximum(sign * part, 0.0), total)
            for part, total in zip(relevance, totals, strict=True)
        ]
        for x_sign, parts in sides:
            for index, slope in enumerate(_cotangents(operation, parts, share)):
                if slope is not None:
                    part, known = x_sign * parts[index] * slope, passed[index]
                    passed[index] = part if known is None else known + part
    return passed


def _parts(operation: _RecordedOperation, x_sign: float, weight_sign: float) -> list[Any]:
    """Return the magnitudes of the inputs and weights with the given signs, and 0 for all others.

    A plain sum has no weights: they are treated as 1, so none is negative.
    """
    has_weights = any(operand.slot is None and _is_float(operand) for operand in operation.operands)
    factor = 0.0 if not has_weights and weight_sign < 0 else 1.0
    return [
        jnp.maximum((x_sign if operand.slot is not None else weight_sign) * operand.value, 0.0) * factor
        if _is_float(operand)
        else operand.value
        for operand in operation.operands
    ]


def _is_float(operand: TracedValue) -> bool:
    return jnp.issubdtype(jnp.asarray(operand.value).dtype, jnp.floating)


def _cotangents(
    operation: _RecordedOperation, values: list[Any], cotangents: list[Array]
) -> list[Array | None]:
    """Return the cotangents of the operands that depend on the input, always in float32."""
    chosen = [index for index, operand in enumerate(operation.operands) if operand.slot is not None]

    def run_with(*replaced: Array) -> list[Any]:
        full = list(values)
        for index, value in zip(chosen, replaced, strict=True):
            full[index] = value
        return operation.run(*full)

    _, back = jax.vjp(run_with, *(values[index] for index in chosen))
    cast = [part.astype(value.dtype) for part, value in zip(cotangents, operation.values, strict=True)]
    passed: list[Array | None] = [None] * len(values)
    for index, slope in zip(chosen, back(cast), strict=True):
        passed[index] = slope.astype(jnp.float32)
    return passed


def _ratio(part: Array, whole: Array) -> Array:
    """Return part / whole, or 0 if whole is not positive."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)
