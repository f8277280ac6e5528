"""What pyproject.toml can't say: the compiled run loop, built by cffi if it can be."""

from setuptools import setup

setup(cffi_modules=["vmm/run_loop_build.py:ffibuilder"])
