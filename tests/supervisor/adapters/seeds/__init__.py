"""The three versions of aioh2's own example, as its pages showed them: only the import is another.

Where a page had lost indentation, or half a line, that was put back; the lines that stood alone are a function here.
"""
