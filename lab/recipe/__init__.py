"""How a guest is made: packages, kernel modules, initramfs.

Every file in this folder is part of the products' cache key: a change rebuilds.
"""
