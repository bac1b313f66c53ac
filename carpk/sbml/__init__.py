"""SBML files as structural models: what of Levels 2 and 3 is differential equations.

`load_model("file.xml")` gives an `ODEModel`:

- states: species and parameters that reactions, rate rules or events change, as what their symbol
  means in the file: a concentration, or an amount (hasOnlySubstanceUnits);
- parameters: the constants that the equations read, in the file's units: parameters, local ones
  (as reaction_parameter), sizes, constant species, and initial values (as species_0). What starts
  at 0 has no parameter: it is filled by a dose or a `Replace`;
- outputs: the states, and what assignment rules give;
- time: days. Rates are converted where the file states its unit of time. Day 0 is the file's 0;
- events at given times are `regimens["file"]`: x := x + dose is a `Bolus`, x := x factor a
  `Multiply`, x := value a `Replace`, with the file's numbers. A dose is in the state's own unit;
  its label is "mg" where that is a mass, and "cells" elsewhere. Doses of your own go into a state
  by its name: `Bolus(3, 1e8, product="C")`;
- conditions on time (time < Tmax) are states that `regimens["file"]` switches from 0 to 1, with a
  lag where the time depends on parameters: a solver must not step over them. Add other regimens to
  that one, or the switches never happen.

Everything else that SBML has is refused by name. States are integrated as they are, so a file whose
levels stay below 1e-9 in its own units needs a smaller `atol` of `solve`, or other units.
"""

from __future__ import annotations

from carpk.errors import ModelError

try:
    import libsbml  # noqa: F401
except ImportError as trouble:
    raise ModelError(
        'Reading SBML needs libSBML, which is not installed: pip install "carpk[sbml]".'
    ) from trouble

from carpk.sbml.read import read

__all__ = ["read"]
