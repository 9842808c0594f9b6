"""Captions measured: a dataset captioned and scored, files of captions scored and compared."""
