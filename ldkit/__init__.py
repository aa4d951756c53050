"""Localization distillation for object detectors, from a teacher cache on disk.

Importing this package imports nothing heavy; torch arrives with the job that needs it.
"""

from importlib.metadata import version

__version__ = version("ldkit")
