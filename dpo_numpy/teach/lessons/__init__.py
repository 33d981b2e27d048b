"""The exercises of each notebook, in the module that is named like it.

    EXERCISES    in the order in which the notebook sets them
"""
