"""The modulated deformable convolution: one function, a module, four implementations.

>>> from repro.ops import DeformConv2d, deform_conv2d, explain
>>> print(explain("cpu"))  # doctest: +SKIP

:mod:`repro.ops.reference` is the one to read; :mod:`repro.ops.deform_conv` holds function, module and
dispatch.
"""

from repro.ops.deform_conv import DeformConv2d, backend, deform_conv2d, explain

__all__ = ["DeformConv2d", "backend", "deform_conv2d", "explain"]
