"""Writes src/Espalier/Data/canonical.txt from Python's copy of the Unicode character database:
    python3 build/unicode/canonical.py > src/Espalier/Data/canonical.txt
"""
import sys
import unicodedata

print("# Canonical decompositions and combining classes of Unicode " + unicodedata.unidata_version + " (Unicode licence v3); made by build/unicode/canonical.py.")
print("# D: character and what it decomposes to. X: the same, but never composed again. C: first, last, combining class. All hexadecimal but the class.")
runs = []
for code in range(sys.maxunicode + 1):
    character = chr(code)
    mapping = unicodedata.decomposition(character)
    if mapping and not mapping.startswith("<"):
        print("D" if unicodedata.normalize("NFC", character) == character else "X", f"{code:04X}", mapping)
    combining = unicodedata.combining(character)
    if combining:
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == combining:
            runs[-1][1] = code
        else:
            runs.append([code, code, combining])
for first, last, combining in runs:
    print("C", f"{first:04X} {last:04X} {combining}")
