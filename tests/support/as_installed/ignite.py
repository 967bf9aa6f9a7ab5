"""Stands in the way of pytorch-ignite, which tests need for MONAI's own runs: a node is installed without it.

MONAI imports it where it is there, which would cost each runner under test a second that no site pays.
"""

raise ImportError
