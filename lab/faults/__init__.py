"""The fault matrix: kill every process of the data path at many points, and see nothing lost.

``series`` plays one seeded series of faults on one command, ``matrix`` a backup and its restore,
``soak`` goes on with random seeds (script/soak).
"""
