"""The policy of muxlink: who runs, how many, how healthy, and what happens when one dies.

Import from its modules, such as ``supervisor.link``: another project has a package of this name, too.
"""
