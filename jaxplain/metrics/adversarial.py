"""The adversarial check: in a photo that was changed to be misclassified, nothing shows the wrong class.

An honest map of the wrong class then restores it only with nearly all of the pixels: its insertion curve
rises at the end, where that of a photo of the class rises with the first pixels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.checks import check_image, check_positive_int
from jaxplain.metrics.causal import Curves, insertion_deletion
from jaxplain.metrics.maps import check_floats, check_pair
from jaxplain.perturb import blur_baseline


class Adversarial(NamedTuple):
    """A photo changed by little, so that the classifier takes it for something else."""

    image: Array  # [H, W, C], model space
    probability: Array  # [], of the wrong class on it
    fooled: Array  # bool [], the wrong class is the top prediction


class AdversarialCheck(NamedTuple):
    """Insertion of the right class on the photo, and of the wrong class on the adversarial photo."""

    adversarial: Adversarial
    clean: Curves
    attacked: Curves
    clean_rise: Array  # [], see `adversarial_rise`
    attacked_rise: Array  # []; well above clean_rise where the check is passed


def adversarial_photo(
    classifier: scores.Classifier,
    image: Array,
    wrong: int | Array,
    *,
    epsilon: float | Array = 0.05,
    steps: int = 20,
) -> Adversarial:
    """A photo that differs by at most `epsilon` in every number and is taken for another class, if it can be.

    Projected gradient on the log probability of the wrong class: `steps` sign steps of `2.5 epsilon / steps`.

    Args:
      classifier: images [N, H, W, C] -> logits [N, K].
      image: [H, W, C], model space.
      wrong: the class it shall be taken for; may be traced.
      epsilon: in model space (for pixels scaled to -1..1, 0.05 is about 6 of 255); may be traced.
      steps: static.

    Returns:
      The photo, which may leave the range of real pixels by epsilon, and whether the classifier was fooled.

    Raises:
      TypeError, ValueError: shapes, dtypes or options that do not fit.

    References:
      Madry et al. Towards Deep Learning Models Resistant to Adversarial Attacks. ICLR 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> brightness = lambda images: jnp.stack([-images.sum((1, 2, 3)), images.sum((1, 2, 3))], 1)
      >>> found = jx.metrics.adversarial_photo(brightness, jnp.full((4, 4, 3), -0.01), wrong=1)
      >>> bool(found.fooled), round(float(found.image.max()), 3)
      (True, 0.04)
    """
    check_image(image)
    steps = check_positive_int(steps, "steps")
    score = scores.class_score(classifier, wrong, "log_probability")
    return _attack(score, image, epsilon, steps=steps)


@partial(jax.jit, static_argnames="steps")
def _attack(score: scores.ClassScore, image: Array, epsilon: Array, *, steps: int) -> Adversarial:
    slope = jax.grad(lambda changed: score(changed[None])[0])

    def step(_: int, changed: Array) -> Array:
        moved = changed + 2.5 * epsilon / steps * jnp.sign(slope(changed))
        return jnp.clip(moved, image - epsilon, image + epsilon)

    changed = jax.lax.fori_loop(0, steps, step, image)
    fooled = scores.top_class(score.classifier, changed) == score.target
    return Adversarial(changed, jnp.exp(score(changed[None])[0]), fooled)


def adversarial_check(
    explain: Callable[[scores.Score, Array, Array], Array],
    classifier: scores.Classifier,
    image: Array,
    right: int | Array,
    wrong: int | Array,
    *,
    epsilon: float | Array = 0.05,
    steps: int = 20,
    curve_steps: int = 50,
    batch_size: int | None = None,
) -> AdversarialCheck:
    """Does the insertion curve of an adversarially misclassified photo only rise at the end?

    A method passes where the map of the wrong class on the adversarial photo restores its probability much
    later than the map of the right class on the photo itself. One that passes it early, with few pixels, has
    found an attack within the attack and not evidence.

    Args:
      explain: (score, image [H, W, C], baseline [H, W, C]) -> saliency [h, w], high = important.
      classifier: images [N, H, W, C] -> logits [N, K].
      image: [H, W, C], model space.
      right: the class that it shows.
      wrong: the class that it shall be taken for.
      epsilon: see `adversarial_photo`.
      steps: of the attack (static).
      curve_steps: of the curves (static).
      batch_size: images per model call; None chooses by platform.

    Returns:
      Photo, curves (blurred baseline) and their rises. Look at `adversarial.fooled` first.

    Raises:
      TypeError, ValueError: shapes, dtypes or options that do not fit.

    References:
      Khorram, Lawson, Fuxin. iGOS++. ACM CHIL 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> brightness = lambda images: jnp.stack([-images.sum((1, 2, 3)), images.sum((1, 2, 3))], 1)
      >>> image = jnp.full((4, 4, 3), -0.01).at[0, 0].set(-0.2)
      >>> found = jx.metrics.adversarial_check(lambda score, x, y: x.mean(-1), brightness, image, 0, 1)
      >>> bool(found.adversarial.fooled), found.attacked.fraction.shape
      (True, (17,))
    """
    attack = adversarial_photo(classifier, image, wrong, epsilon=epsilon, steps=steps)

    def measured(shown: Array, target: int | Array) -> Curves:
        score, baseline = scores.class_score(classifier, target), blur_baseline(shown)
        saliency = explain(score, shown, baseline)
        return insertion_deletion(score, shown, baseline, saliency, steps=curve_steps, batch_size=batch_size)

    clean, attacked = measured(image, right), measured(attack.image, wrong)
    rises = (adversarial_rise(curves.fraction, curves.insertion) for curves in (clean, attacked))
    return AdversarialCheck(attack, clean, attacked, *rises)


def adversarial_rise(fraction: Array, insertion: Array) -> Array:
    """The share of the pixels after which an insertion curve first reaches half of its final value.

    Low is good: where a map is right, a few restored pixels bring the class back. A map that fools the
    classifier (a good deletion area from few scattered pixels that break the score but do not make it)
    restores its score late, when nearly everything is back. Point of the curve, without interpolation.

    Args:
      fraction: [T], 0 to 1 and rising, as `Curves.fraction`.
      insertion: [T], scores of 0 or more (probabilities), as `Curves.insertion`.

    Returns:
      float32 [], one of the fractions; NaN where the final value is not above 0 or anything is NaN.

    Raises:
      TypeError, ValueError: not two curves of floats of one length.

    References:
      An own summary of the insertion curve of Petsiuk, Das, Saenko. RISE. BMVC 2018; deletion alone rewards
      adversarial maps (Khorram, Lawson, Fuxin. iGOS++. ACM CHIL 2021).

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> fraction = jnp.linspace(0.0, 1.0, 5)
      >>> float(jx.metrics.adversarial_rise(fraction, jnp.array([0.0, 0.1, 0.5, 0.7, 0.8])))
      0.5
    """
    for array, name in ((fraction, "fraction"), (insertion, "insertion")):
        check_floats(array, name, 1, "[T]")
    check_pair(fraction, insertion, ("fraction", "insertion"))
    curve = jnp.asarray(insertion, jnp.float32)
    first = jnp.asarray(fraction, jnp.float32)[jnp.argmax(curve >= curve[-1] / 2)]
    known = (curve[-1] > 0) & ~jnp.any(jnp.isnan(curve))
    return jnp.where(known, first, jnp.nan)
