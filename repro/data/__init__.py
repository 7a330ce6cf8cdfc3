"""Photographs in, noise on top: catalogue of data sets, image files, noise models, training patches."""
