"""Questions about many people: the six arms, their statistics, checks of the shipped weights, costs at full size.

May import every other package.
"""
