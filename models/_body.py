"""Constants of the body and of units, for every file; those of one paper stand in its own file."""

HOURS = 24.0  # in a day; clearances are per hour, equations per day
UL_PER_L = 1e6
UL_PER_NL = 1000.0  # cells/µL in 1e9/L
GENOMES_PER_UG = 1e6 / 6.6  # diploid genomes in 1 µg of DNA, at 6.6 pg per cell
CELLS_PER_UL = 5e8  # T cells in the body at 1 cell/µL: Kimmel 2021, Table 1 over BIOMD0000001041
CELLS_PER_ML = 1e9  # of tumor: Kimmel 2021, Table 1 (9.486e10 cells) over Figure 1 (94.86 mL)
ML_PER_CELL = 1 / CELLS_PER_ML
