"""The operator. What of the official clients is imported in it is imported name by name."""

from unimrg_operator import lazy_packages

lazy_packages.install()
