"""The result of every method: an importance map, a status, the cost, and method-specific details."""

import inspect
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.perturb import resize_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Status(IntEnum):
    """Outcome of an explanation; an integer, so that it passes through jit and vmap."""

    OK = 0
    NOT_FINITE = 1
    NOT_ABOVE_BASELINE = 2
    NOT_MOVED = 3
    LOW_SCORE = 4
    BASELINE_SUFFICIENT = 5
    BUDGET_SPENT = 6
    BUFFER_FULL = 7
    NONE_FOUND = 8
    CONSTANT_LOGITS = 9
    NOT_ACCEPTED = 10
    CONSTANT_SCORE = 11

    @property
    def message(self) -> str:
        """Human-readable description of the status, with advice on what to change."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "ok",
    Status.NOT_FINITE: "a score or the result is NaN or infinite: check the model, its input and the target",
    Status.NOT_ABOVE_BASELINE: "the score of the image is not above that of its baseline, so there is "
    "nothing to explain: choose another target or baseline",
    Status.NOT_MOVED: "no candidate mask was better than the initial one, so the map is empty: choose "
    "another target, less noise, a smaller l1, or more iterations",
    Status.LOW_SCORE: "the score of the whole image is close to zero, so there is nothing to explain: choose "
    "another target",
    Status.BASELINE_SUFFICIENT: "the baseline alone already reaches the threshold, so no patch is needed: "
    "choose another baseline or target",
    Status.BUDGET_SPENT: "the search used up its budget of model evaluations before it ended, so there may "
    "be more explanations: raise max_evaluations",
    Status.BUFFER_FULL: "the search reached max_explanations, and there may be more explanations: raise "
    "max_explanations",
    Status.NONE_FOUND: "no sufficient set was found: raise max_size, beam_width or candidates, lower the "
    "threshold, or let the search propose all patches (proposal=None)",
    Status.CONSTANT_LOGITS: "the logit is the same for all images, so there is nothing to explain: add other "
    "images, or choose another class",
    Status.NOT_ACCEPTED: "in every round, a single x-feature contributed nearly everything; the best round "
    "was kept: try more images, another n_features or another key",
    Status.CONSTANT_SCORE: "the score is the same for all images that were tried, or its gradient is zero, "
    "so there is nothing to explain: choose another kind of score (such as the logit), target or baseline",
}


class Explanation(NamedTuple):
    """The explanation of one image; a pytree, so that it passes through jit and vmap."""

    importance: Array  # [h, w] at the method's own resolution, high = important
    status: Array  # int32 [], a `Status`
    evaluations: Array  # int32 [], images evaluated (forward and backward count as one); -1 if unknown
    details: Any = ()  # a NamedTuple of method-specific results

    def saliency(self, height: int, width: int) -> Array:
        """Return the importance resized to [height, width], such as the image's size.

        Upsamples bilinearly with aligned corners; downsamples by averaging over cells.

        Example:
          >>> import jax.numpy as jnp
          >>> finished(jnp.array([[0.0, 1.0]]), jnp.zeros(1), 1).saliency(1, 3).tolist()
          [[0.0, 0.5, 1.0]]
        """
        return resize_map(self.importance, (height, width))

    def plot(self, image: Any = None, *, ax: "Axes | None" = None, alpha: float = 0.5) -> "Axes":
        """Plot the importance with matplotlib, on top of an image if one is given.

        Args:
          image: [H, W, C], uint8 or floating point; floats are rescaled for display.
          ax: axes to draw on; if None, a new figure is created.
          alpha: opacity of the heatmap, 0 to 1.

        Returns:
          The axes. To save the plot, call `ax.figure.savefig("name.svg")`.

        Raises:
          ValueError: this is a batch of explanations; plot one at a time.
        """
        from jaxplain import overlay  # imports matplotlib only when something is drawn

        _check_single(self.importance)
        return overlay.plot(np.asarray(self.importance), image, ax=ax, alpha=alpha, title=self._title())

    def _repr_png_(self) -> bytes | None:
        """Return a PNG heatmap for display in notebooks, or None if traced or batched."""
        if isinstance(self.importance, jax.core.Tracer) or np.ndim(self.importance) != 2:
            return None
        from jaxplain import overlay

        return overlay.thumbnail(np.asarray(self.importance))

    def _title(self) -> str:
        status = Status(int(self.status))
        return "" if status is Status.OK else status.name.lower().replace("_", " ")


class Method(Protocol):
    """The signature of every method in `masks` and `attributions`, and of custom methods."""

    def __call__(
        self,
        score: Any,
        image: Array,
        baseline: Array | None = None,
        *,
        key: Array | None = None,
        batch_size: int | None = None,
        **named: Any,
    ) -> Explanation:
        """Explain one image.

        Args:
          score: the quantity to explain, a callable pytree that maps images [N, H, W, C] to scores [N].
          image: [H, W, C], model space.
          baseline: [H, W, C], replaces hidden pixels; if None, the method's default. Ignored by methods
            that hide no pixels.
          key: random key; consumed. Ignored by deterministic methods.
          batch_size: number of images per model call; if None, chosen for the platform.
          **named: method-specific options; see the method's signature for their defaults.
        """
        ...


def finished(
    importance: Array, scores: Array, evaluations: int | Array, details: Any = (), status: Array | None = None
) -> Explanation:
    """Return an `Explanation` whose status is NOT_FINITE if the importance or a score is not finite.

    Args:
      importance: [h, w].
      scores: all scores returned by the model, in any shape.
      evaluations: number of images the model evaluated.
      details: method-specific results.
      status: int32 [], the status if everything is finite; if None, OK.
    """
    finite = jnp.all(jnp.isfinite(importance)) & jnp.all(jnp.isfinite(scores))
    otherwise = jnp.int32(Status.OK) if status is None else status
    return Explanation(
        importance=importance,
        status=jnp.where(finite, otherwise, Status.NOT_FINITE).astype(jnp.int32),
        evaluations=jnp.asarray(evaluations, jnp.int32),
        details=details,
    )


def constant_unless(has_changed: Array) -> Array:
    """Return the status int32 []: OK if the score has changed (bool []), otherwise CONSTANT_SCORE."""
    return jnp.where(has_changed, jnp.int32(Status.OK), jnp.int32(Status.CONSTANT_SCORE))


def differ(scores: Array) -> Array:
    """Return whether scores [N] differ by more than float32 rounding, as bool []."""
    rounding = 2 * jnp.finfo(jnp.float32).eps * jnp.max(jnp.abs(scores))
    return jnp.max(scores) - jnp.min(scores) > rounding


def call_method(
    method: Callable[..., Any],
    score: Any,
    image: Array,
    baseline: Array | None,
    *,
    key: Array | None = None,
    options: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain one image with a built-in method or a custom function.

    The key and the options are passed only if the method's signature includes them. A custom function may
    return a bare map instead of an `Explanation`; the number of evaluations is then unknown (-1).

    Raises:
      ValueError, TypeError: raised by the method.
    """
    keywords = {name: value for name, value in (options or {}).items() if takes(method, name)}
    if takes(method, "key"):
        keywords["key"] = key
    result = method(score, image, baseline, **keywords)
    if not isinstance(result, Explanation):
        result = finished(jnp.asarray(result), jnp.zeros((), jnp.float32), -1)
    return result


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Return whether a function accepts a keyword argument, by name or through `**`."""
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _check_single(importance: Any) -> None:
    if np.ndim(importance) != 2:
        raise ValueError(
            f"only one explanation can be plotted at a time, got importance of shape {np.shape(importance)}; "
            "select one with jax.tree_util.tree_map(lambda leaf: leaf[0], explanation)."
        )
