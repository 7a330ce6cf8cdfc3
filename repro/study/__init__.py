"""The study itself, in one direction: claims -> experiments -> records -> verdicts -> pages.

:mod:`claims` holds what the papers say, :mod:`experiments` what is run to test it, :mod:`campaign` runs it,
:mod:`records` keeps what came out, :mod:`statistics` and :mod:`costs` measure, :mod:`verdicts` compares, and
:mod:`tables` prints. No number is typed on the way.
"""
