"""The metadata is in setup.cfg; this file is the place of the optional compiled kernels."""

from setuptools import setup

setup()
