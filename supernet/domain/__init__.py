"""The inputs for which a captured program means the same to every engine.

``interval`` holds ranges of numbers, ``sizes`` the ranges of free sizes, ``values`` follows them
through the program's operators by ``rules`` and ``arithmetic``, ``indices`` says what index
operands demand, ``demands`` turns that into ranges of the inputs, ``nonfinite`` finds where a NaN
or an infinity is born, and ``study`` puts it together: guards for the requests, and what is left
open, which ``engine`` holds against what each backend can do. Nothing here runs the program.
"""
