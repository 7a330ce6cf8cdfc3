"""Four image denoisers and their baselines, re-implemented and put to the test.

>>> import repro
>>> net = repro.build("sadnet")            # random weights
>>> net = repro.load("sadnet-colour-50")   # weights published with the study
>>> clean = repro.denoise(photograph, model=net)
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["build", "denoise", "load"]

_HOMES = {"build": "repro.models", "load": "repro.weights", "denoise": "repro.evaluate"}


def __getattr__(name: str):
    # Loaded when first used: `import repro` and `repro --help` stay fast, and a broken torchvision breaks neither.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'repro' has no attribute {name!r}")
