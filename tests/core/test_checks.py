"""Argument checks: what passes, what is refused, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import checks

IMAGE = np.zeros((4, 5, 3), np.float32)


def passes(check):
    """Also while tracing, where values are unknown."""
    check(IMAGE)
    jax.eval_shape(check, IMAGE)


def test_valid_images_and_maps_pass():
    passes(checks.check_image)
    passes(checks.as_image)
    passes(lambda image: checks.check_image_batch(image[None], 3))
    passes(lambda image: checks.check_map(image[:3, :, 0], IMAGE.shape))
    passes(lambda image: checks.check_floats(image, "image", 3))
    passes(lambda image: checks.check_same_shape(image, image, ("one", "other")))
    assert checks.as_image(IMAGE.astype(np.float16)).dtype == jnp.float32


def test_traced_values_are_not_checked():
    jax.eval_shape(lambda image: checks.check_finite(image, "image"), IMAGE)
    jax.eval_shape(lambda image: checks.check_where(lambda values: values > 1, image, "too low"), IMAGE)
    jax.eval_shape(lambda number: checks.as_number(number, "noise", 0.0), jnp.float32(-1))


NAN = np.full((4, 5, 3), np.nan, np.float32)
REFUSED = {
    "list": (lambda: checks.check_image([[0.0]]), TypeError, "image must be an array of floats, got list"),
    "bytes": (lambda: checks.check_image(IMAGE.astype(np.uint8)), TypeError, "convert 8-bit photos"),
    "images": (lambda: checks.check_image(IMAGE[None]), ValueError, "one image at a time; use jax.vmap"),
    "flat": (lambda: checks.check_image(IMAGE[0]), ValueError, r"one image \[H, W, C\], got shape \(5, 3\)"),
    "empty": (lambda: checks.check_image(IMAGE[:0]), ValueError, r"got shape \(0, 5, 3\)"),
    "channels first": (
        lambda: checks.check_image(np.zeros((3, 40, 50), np.float32), "photo"),
        ValueError,
        r"looks like channels first; use photo.transpose\(1, 2, 0\)",
    ),
    "NaN": (lambda: checks.as_image(NAN), ValueError, "image contains 60 NaN or infinite values out of 60"),
    "one of a batch": (
        lambda: checks.check_image_batch(IMAGE),
        ValueError,
        r"add a batch axis: images\[None\]",
    ),
    "channels": (
        lambda: checks.check_image_batch(IMAGE[None], 1),
        ValueError,
        r"must have shape \[N, H, W, 1\] \(channels last\)",
    ),
    "fine map": (
        lambda: checks.check_map(np.zeros((5, 5)), IMAGE.shape),
        ValueError,
        r"no larger than the image's size \(4, 5\), got shape \(5, 5\)",
    ),
    "integer map": (
        lambda: checks.check_map(np.zeros((2, 2), int), IMAGE.shape),
        TypeError,
        "array of floats",
    ),
    "map of NaN": (
        lambda: checks.check_map(NAN[..., 0], IMAGE.shape),
        ValueError,
        "importance contains 20 NaN",
    ),
    "integers": (
        lambda: checks.check_floats(np.ones(3, int), "x"),
        TypeError,
        "x must be an array of floats",
    ),
    "batch of floats": (
        lambda: checks.check_floats(np.ones((2, 3)), "x", 1, "[N]"),
        ValueError,
        r"x must have shape \[N\], got shape \(2, 3\). Use jax.vmap",
    ),
    "no floats": (lambda: checks.check_floats(np.ones(0), "x"), ValueError, "x must not be empty"),
    "shapes": (
        lambda: checks.check_same_shape(np.ones(2), np.ones(3), ("one", "other")),
        ValueError,
        r"one \(2,\) and other \(3,\) must have the same shape",
    ),
    "where": (lambda: checks.check_where(lambda x: x > 0, np.zeros(2), "too low"), ValueError, "too low"),
    "numbers": (lambda: checks.as_number([1.0, 2.0], "noise"), ValueError, "use jax.vmap for several values"),
    "not finite": (lambda: checks.as_number(np.inf, "noise"), ValueError, "noise contains 1 NaN or infinite"),
    "too low": (lambda: checks.as_number(-1, "noise", 0.0), ValueError, "noise must be at least 0, got -1"),
    "too high": (
        lambda: checks.as_number(2, "share", 0.0, 1.0),
        ValueError,
        r"share must be in 0\.\.1, got 2",
    ),
    "half": (lambda: checks.check_positive_int(2.5, "steps"), TypeError, "must be an integer, got 2.5"),
    "bool": (lambda: checks.check_positive_int(True, "steps"), TypeError, "must be an integer, got True"),
    "zero": (lambda: checks.check_batch_size(0), ValueError, "batch_size must be at least 1, got 0"),
    "triple": (
        lambda: checks.as_pair((1, 2, 3), "grid"),
        ValueError,
        r"an integer or \(rows, columns\)",
    ),
    "no key": (lambda: checks.as_key(None, "rise"), TypeError, r"rise is random: pass key=jax.random.key\("),
    "keys": (
        lambda: checks.as_key(jax.random.split(jax.random.key(0)), "rise"),
        ValueError,
        "single key, got",
    ),
    "seed": (lambda: checks.check_seed(2**32), ValueError, r"seed must be in 0\.\.4294967295"),
    "target": (lambda: checks.check_target(3, 3), ValueError, r"classes 0\.\.2"),
    "near": (
        lambda: checks.check_choice("blurr", ["blur", "mean"], "baseline"),
        ValueError,
        "mean 'blur'\\?",
    ),
    "far": (lambda: checks.check_choice("x", ["blur", "mean"], "baseline"), ValueError, "from blur, mean"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_arguments_are_refused(name):
    call, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        call()


def test_valid_options_are_returned():
    assert checks.as_number(np.float64(0.5), "share", 0.0, 1.0).dtype == jnp.float32
    assert checks.check_positive_int(np.int64(3), "steps") == 3
    assert checks.as_pair(3, "grid") == (3, 3)
    assert checks.as_pair([3, 4], "grid") == (3, 4)
    assert checks.check_batch_size(None) is None
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert checks.as_key(key, "rise") is key
    checks.check_seed(2**32 - 1)
    checks.check_target(2, 3)
    assert checks.check_choice("blur", ("blur", "mean"), "baseline") == "blur"
