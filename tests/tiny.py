"""The names of `support.tiny` at their old place, for tests that are not moved yet."""

from support.tiny import *  # noqa: F403
