"""Reads pretrained weights (PyTorch's two pickle formats, safetensors) with numpy alone, executing nothing.

A pickle is a program. Here it runs on a machine of our own (`_unpickler`) whose only values are data: a
global is a name that is looked up in two short tables and never imported, so there is nothing to call.
Storages are not touched meanwhile. The outcome is records (`_records`), and only those of the state dict that
was found become arrays (`_state_dict`), once they are known to lie inside the file (`_containers`).
"""

from jaxplain.zoo.weights._records import WeightsError
from jaxplain.zoo.weights._state_dict import check_fit, read_state_dict

__all__ = ["WeightsError", "check_fit", "read_state_dict"]
