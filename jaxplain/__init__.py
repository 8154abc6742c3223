"""jaxplain: why does an image classifier decide as it does?"""

__version__ = "0.1.0"
