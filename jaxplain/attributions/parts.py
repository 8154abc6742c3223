"""A classifier cut in two at its last convolution."""

from typing import Any, NamedTuple, Protocol

from jax import Array


class MapClassifier(Protocol):
    """A classifier cut at its last convolution: `head(pool(feature_maps(images)))` are its logits.

    Every classifier of the zoo is one, and so is any pytree (or plain object) with these three methods.
    """

    def feature_maps(self, images: Array, /) -> Array:
        """Activations of the last convolution: [N, H, W, C] -> [N, h, w, d]."""
        ...

    def pool(self, maps: Array, /) -> Array:
        """From the last convolution to the penultimate features: [N, h, w, d] -> [N, D]."""
        ...

    def head(self, features: Array, /) -> Array:
        """From penultimate features to logits: [N, D] -> [N, K]."""
        ...


class Maps(NamedTuple):
    """The first half of a classifier: images -> maps."""

    classifier: Any

    def __call__(self, images: Array) -> Array:
        """Images [N, H, W, C] -> maps [N, h, w, d]."""
        return self.classifier.feature_maps(images)


class Head(NamedTuple):
    """The second half: maps -> logits."""

    classifier: Any

    @property
    def labels(self) -> Any:
        """Of the classifier, if it has any."""
        return getattr(self.classifier, "labels", None)

    def __call__(self, maps: Array) -> Array:
        """Maps [N, h, w, d] -> logits [N, K]."""
        return self.classifier.head(self.classifier.pool(maps))


def check_parts(classifier: Any, method: str) -> None:
    """Raise a TypeError unless a classifier has the three parts."""
    missing = [
        name for name in ("feature_maps", "pool", "head") if not callable(getattr(classifier, name, None))
    ]
    if missing:
        raise TypeError(
            f"{method} needs a classifier with feature_maps, pool and head, as those of jaxplain.zoo; "
            f"{type(classifier).__name__} has no {' and no '.join(missing)}. Give it these, or take a method "
            "that needs the score only, such as rise."
        )
