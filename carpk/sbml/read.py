"""What an SBML file holds, and the structural model that it means."""

from __future__ import annotations

import html
import itertools
import keyword
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import jax.numpy as jnp
import libsbml
from jax import Array

from carpk._types import Numbers, Values
from carpk.dosing.regimen import CELLS, DRUG, Bolus, Event, Multiply, Regimen, Replace
from carpk.errors import CarpkWarning, ModelError, RegimenError
from carpk.params import Params, Scalar, param
from carpk.sbml.formula import (
    COMPARE,
    CONSTANTS,
    FUNCTIONS,
    STEPS,
    TIME,
    Expression,
    Found,
    Moment,
    SymbolTable,
    named,
    names_of,
    piecewise,
    split,
    straight_line,
    truth,
)
from carpk.sbml.units import DAY, NOT_STATED, parts_of, size_unit, unit_of
from carpk.structural import ODEModel, States, Target, state

HARMLESS = {libsbml.MissingXMLEncoding, libsbml.NotUTF8} | {
    number for name, number in vars(libsbml).items() if re.match("Empty.*List", name)
}
BY_HAND = "Take it out of the file, and give what it does as a Regimen."
Fields = TypeVar("Fields", Params, States)


@lru_cache(maxsize=64)
def read(path: Path, text: str) -> ODEModel:
    """The model in the text of an SBML file: the same object for the same text."""
    document = libsbml.readSBMLFromString(text)
    for error in map(document.getError, range(document.getNumErrors())):
        serious = error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR
        if serious and error.getErrorId() not in HARMLESS:
            last = error.getMessage().strip().split("\n")[-1].strip(" .")
            detail = "" if last.startswith("Reference") or len(last) > 200 else f" ({last})"
            raise ModelError(
                f"Model file {path}, line {error.getLine()}: {error.getShortMessage()}{detail}. "
                "Correct the file, or export it anew."
            )
    sbml = document.getModel()
    if sbml is None or document.getLevel() < 2:
        raise ModelError(
            f"Model file {path} holds no model of SBML Level 2 or 3. Export it as one of these."
        )
    for holder in (document, sbml) if document.getLevel() > 2 else ():
        for plugin in map(holder.getPlugin, range(holder.getNumPlugins())):
            package = plugin.getPackageName()
            if document.getPackageRequired(package) and len(plugin.getListOfAllElements()):
                raise ModelError(
                    f"Model file {path} needs the SBML package {package!r}, but carpk reads the "
                    "core of SBML only. Export the model without it."
                )
    local = libsbml.ConversionProperties()
    local.addOption("promoteLocalParameters")
    document.convert(local)
    return File(path, sbml).to_model()


class File:
    """Content of a file. Formulas are translated when they are first asked for."""

    def __init__(self, path: Path, sbml: libsbml.Model) -> None:
        self.path, self.sbml = path, sbml
        self.constants: dict[str, tuple[float, str, str, str]] = {}  # as `param` takes them
        self.about: dict[str, tuple[str, str]] = {}  # variable -> unit, meaning
        self.states: SymbolTable = {}  # what they change by, per unit of the file's time
        self.rules: SymbolTable = {}  # assignment rules, and rates of reactions
        self.first: SymbolTable = {}  # at time 0, of what has no rule
        self.events: list[Event] = []
        self.switches: dict[tuple[float, float], str] = {}  # the file's time, and again -> state
        self.delays: dict[str, tuple[Moment, set[str]]] = {}  # switch -> its time, what that needs
        self.notes: list[str] = []
        self.ids = {element.getIdAttribute() for element in sbml.getListOfAllElements()}
        self.found: dict[tuple[str, bool], set[str] | None] = {}  # by `leaves`
        self.per_day = self._read_time()
        self._read_rules()
        self._read_reactions()
        self._read_quantities()
        for event in sbml.getListOfEvents():
            self._read_event(event, _label(event))

    def error(self, what: str) -> ModelError:
        return ModelError(f"Model file {self.path}: {what}")

    # what is in the file

    def _read_time(self) -> float:
        """Units of the file's time per day."""
        level_3 = self.sbml.getLevel() > 2
        unit = self.sbml.getTimeUnits() if level_3 else "time"
        definition = self.sbml.getUnitDefinition(unit)
        parts = parts_of(definition) if definition else [(unit, 1.0, 1.0)]
        if len(parts) == 1 and parts[0][:2] == ("second", 1.0):
            per_day = DAY / parts[0][2]
            if not math.isclose(per_day, 1.0):
                self.notes.append(f"A day has {per_day:g} units of the file's time.")
            return per_day
        doubt = "The file does not state its unit of time, which is taken as the day."
        where = 'timeUnits="..."' if level_3 else 'a unit definition "time"'
        message = f"Model file {self.path}: {doubt} If it is another, state it there ({where})."
        warnings.warn(message, CarpkWarning, stacklevel=7)
        self.notes.append(doubt)
        return 1.0

    def _read_rules(self) -> None:
        for rule in self.sbml.getListOfRules():
            if rule.isAlgebraic():
                raise self.error("it has an algebraic rule. Solve it for its variable by hand.")
            where = f"the rule for {rule.getVariable()!r}"
            table = self.states if rule.isRate() else self.rules
            table[self._variable(rule, where)] = self._formula(rule, where)
        for each in self.sbml.getListOfInitialAssignments():
            name = each.getSymbol()
            self.first[name] = self._formula(each, f"the initial assignment of {name!r}")
        for event in self.sbml.getListOfEvents():
            for each in event.getListOfEventAssignments():
                name = self._variable(each, _label(event))
                self.states.setdefault(name, Expression(lambda v: 0.0))

    def _variable(self, element: libsbml.Rule | libsbml.EventAssignment, where: str) -> str:
        """The symbol that a rule or an event changes."""
        name: str = element.getVariable()
        if self.sbml.getCompartment(name):
            raise self.error(
                f"{where} changes the compartment {name!r}, but compartments must keep their size. "
                "Write the equations in amounts."
            )
        if not (self.sbml.getSpecies(name) or self.sbml.getParameter(name)):
            raise self.error(
                f"{where} changes {name!r}, which is neither a species nor a parameter. "
                "Stoichiometries must be numbers."
            )
        return name

    def _formula(self, element: libsbml.SBase, where: str) -> Callable[[], Expression]:
        return partial(self._translate, element.getMath(), where, {})

    def _read_reactions(self) -> None:
        """Kinetic laws, and what reactions do to species."""
        flows: dict[str, list[tuple[float, str]]] = {}
        for reaction in self.sbml.getListOfReactions():
            name, law = reaction.getId(), reaction.getKineticLaw()
            if law is None or reaction.getFast():
                what = "is fast" if law else "has no kinetic law"
                raise self.error(f"reaction {name!r} {what}. Give it a rate law.")
            self.rules[name] = self._formula(law, f"the rate of reaction {name!r}")
            for sign, side in ((-1, "Reactants"), (1, "Products")):
                for each in getattr(reaction, f"getListOf{side}")():
                    times = sign * self._stoichiometry(each, f"reaction {name!r}")
                    flows.setdefault(each.getSpecies(), []).append((times, name))
        for name, flow in flows.items():
            species = self.sbml.getSpecies(name)
            if species is None:
                raise self.error(f"a reaction names {name!r}, which is not a species of the file.")
            if not (species.getBoundaryCondition() or species.getConstant() or name in self.rules):
                self.states[name] = self._net(species, flow)

    def _stoichiometry(self, reference: libsbml.SpeciesReference, where: str) -> float:
        name: str = reference.getId()
        number: float = reference.getStoichiometry()
        is_formula = reference.isSetStoichiometryMath() or name in self.first
        if is_formula or not math.isfinite(number):
            raise self.error(
                f"the stoichiometry of {reference.getSpecies()!r} in {where} must be a number, but "
                f"is {'a formula' if is_formula else 'not given'}."
            )
        if name:
            self.rules[name] = Expression(lambda v: number)
        return number

    def _net(self, species: libsbml.Species, flow: list[tuple[float, str]]) -> Expression:
        """Net rate of reactions on the quantity of a species, per unit of the file's time."""
        factor = species.getConversionFactor() or self.sbml.getConversionFactor()
        size = species.getCompartment() if self._by_size(species) else ""

        def value(v: Values) -> Numbers:
            net = sum(times * v[reaction] for times, reaction in flow)
            return net * (v[factor] if factor else 1.0) / (v[size] if size else 1.0)

        return Expression(value, frozenset({*(r for _, r in flow), size, factor} - {""}))

    def _by_size(self, species: libsbml.Species) -> bool:
        """The symbol of a species means its concentration."""
        size = self.sbml.getCompartment(species.getCompartment())
        if size is None:
            raise self.error(f"the species {species.getId()!r} is in no compartment of the file.")
        return size.getSpatialDimensionsAsDouble() != 0 and not species.getHasOnlySubstanceUnits()

    def _read_quantities(self) -> None:
        """Constants and initial values, in the order of the file."""
        for each in self.sbml.getListOfParameters():
            self._quantity(each, each.getValue(), unit_of(self.sbml, each.getUnits()))
        for each in self.sbml.getListOfSpecies():
            self._read_species(each)
        for each in self.sbml.getListOfCompartments():
            about = f"size of {each.getName() or each.getId()}"
            if each.getId() not in self.first:
                self._constant(each.getId(), each.getSize(), size_unit(self.sbml, each), about)
        self.states = {name: self.states[name] for name in self.about if name in self.states}

    def _read_species(self, species: libsbml.Species) -> None:
        size, by_size = self.sbml.getCompartment(species.getCompartment()), self._by_size(species)
        amount = unit_of(self.sbml, species.getSubstanceUnits(), "substance")
        whole = size_unit(self.sbml, size)
        level = NOT_STATED if NOT_STATED in (amount, whole) else f"{amount}/{whole}"
        unit = level if by_size else amount
        value, power = species.getInitialAmount(), -1
        if species.isSetInitialConcentration():
            value, power = species.getInitialConcentration(), 1
        if value == 0 or (power == 1) == by_size:
            self._quantity(species, value, unit)
        else:
            self._quantity(species, value, unit, level if power == 1 else amount, (size, power))

    def _quantity(
        self,
        element: libsbml.Species | libsbml.Parameter,
        value: float,
        unit: str,
        given: str = "",
        scale: tuple[libsbml.Compartment, int] | None = None,
    ) -> None:
        """A species or parameter, and its value at time 0: times a size or over it, if one says."""
        name, about = element.getId(), element.getName() or element.getId()
        self.about[name] = (unit, about)
        if name in self.rules or name in self.first or not math.isfinite(value):
            return
        if name not in self.states and scale is None:
            self._constant(name, value, unit, about)
        elif value == 0:
            self.first[name] = Expression(lambda v: 0.0)
        else:
            start = self._free(f"{name}_0")
            self._constant(start, value, given or unit, f"{about} at time 0", name)
            self.first[name] = named(start)
            if scale is not None:
                size, power = scale[0].getId(), scale[1]
                names = frozenset({start, size})
                self.first[name] = Expression(lambda v: v[start] * v[size] ** power, names)

    def _constant(self, name: str, value: float, unit: str, about: str, source: str = "") -> None:
        if math.isfinite(value):
            self.constants[name] = (value, unit, about, f"{self.path.name}, {source or name}")

    def _free(self, name: str) -> str:
        """A symbol that the file does not have."""
        while name in self.ids or name in self.constants:
            name += "_"
        return name

    # events

    def _read_event(self, event: libsbml.Event, where: str) -> None:
        trigger = event.getTrigger()
        if event.isSetDelay() or event.isSetPriority() or trigger is None:
            what = "a delay" if event.isSetDelay() else "a priority" if trigger else "no trigger"
            raise self.error(f"{where} has {what}. {BY_HAND}")
        (time, strictly), end = self._window(trigger.getMath(), where)
        if (time, strictly) <= (0.0, False):  # true from the start: it does not become true
            told = event.getLevel() > 2 and not trigger.getInitialValue()
            time = 0.0 if told else math.inf
        if time == math.inf or time > end:
            self.notes.append(f"The file's {where} never happens.")
            return
        for each in event.getListOfEventAssignments():
            name = each.getVariable()
            formula = self._translate(each.getMath(), f"{where} for {name!r}", {})
            others = self.leaves(formula.names) & set(self.states) - {name}

            def after(before: Numbers, formula: Expression = formula, name: str = name) -> Numbers:
                return formula.value(self.at(self.numbers, {name: before}, time))

            line = None if others else straight_line(after)
            if line is None:
                what = libsbml.formulaToL3String(each.getMath())
                raise self.error(
                    f"{where} sets {name!r} to {what}, but may only add a number, multiply by one "
                    f"or set to one. {BY_HAND}"
                )
            try:
                self.events += Regimen(self._changes(time / self.per_day, name, *line)).events
            except RegimenError as trouble:
                raise self.error(f"{where} cannot be given as a dose. {trouble}") from trouble

    def _changes(self, day: float, name: str, plus: float, times: float) -> tuple[Event, ...]:
        """x := plus + times x."""
        state = self.field(name, States)
        unit = DRUG if re.match(r"[kmµnp]?g(/|$)", self.about[name][0]) else CELLS
        if times == 0:
            return (Replace(day, plus, state),)
        scale = (Multiply(day, times, state),) if times != 1 else ()
        dose = Bolus(day, plus, product=state, unit=unit, compartment=state) if plus else None
        return (*scale, dose) if dose else scale

    def _window(self, node: libsbml.ASTNode, where: str) -> tuple[tuple[float, bool], float]:
        """Interval of a true trigger: from (the file's time, just after it or not), until."""
        kind, nodes = split(node)
        if kind == "and":
            windows = [self._window(child, where) for child in nodes]
            return max(start for start, _ in windows), min(end for _, end in windows)
        if kind in (*COMPARE, "eq") and len(nodes) == 2:
            left, right = (self._translate(each, where, {}) for each in nodes)
            turn = self._turn(left, right, where, BY_HAND)
            if turn is not None:
                when, rising = turn
                time = float(when(self.numbers))
                if kind != "eq" and rising != (kind in ("gt", "geq")):
                    return (-math.inf, False), time
                return (time, kind in ("gt", "lt")), time if kind == "eq" else math.inf
        formula = libsbml.formulaToL3String(node)
        raise self.error(f"the trigger of {where} is not a time, but {formula}. {BY_HAND}")

    # formulas

    def _translate(
        self, node: libsbml.ASTNode, where: str, local: Mapping[str, Expression]
    ) -> Expression:
        """A formula as a function of the values of symbols."""
        if node is None:
            raise self.error(f"{where} has no formula.")
        kind, nodes = split(node)
        name, number = node.getName(), node.getValue()
        if kind in CONSTANTS:
            number = CONSTANTS[kind]
        if math.isfinite(number) and number == int(number) and abs(number) < 1e9:
            number = int(number)  # a power of a negative number
        if node.isNumber() or kind in CONSTANTS or kind == "name_avogadro":
            return Expression(lambda v: number)
        if kind == "name_time":
            return named(TIME)
        if kind == "name":
            if name not in local and name not in self.ids:
                raise self.error(f"{where} uses {name!r}, which the file does not define.")
            return local.get(name, named(name))
        children = [self._translate(child, where, local) for child in nodes]
        names = names_of(children)
        if kind == "function":
            return self._call(name, children, where)
        if kind == "piecewise":
            return Expression(partial(piecewise, children), names)
        if kind in COMPARE:
            pairs = itertools.pairwise(children)
            terms = [self._compare(kind, *pair, where) for pair in pairs]
            return Expression(lambda v: math.prod(t.value(v) for t in terms), names_of(terms))
        if kind in STEPS and TIME in self.leaves(names):
            raise self._clock(where)
        function = FUNCTIONS.get(kind)
        if function is None:
            raise self.error(f"{where} uses {name or kind!r}, which carpk cannot calculate.")
        return Expression(lambda v: function(*(child.value(v) for child in children)), names)

    def _call(self, name: str, arguments: list[Expression], where: str) -> Expression:
        """A function of the file, written out."""
        function = self.sbml.getFunctionDefinition(name)
        known = range(function.getNumArguments()) if function else ()
        if function is None or function.getBody() is None or len(known) != len(arguments):
            raise self.error(
                f"{where} calls {name!r} with {len(arguments)} arguments, but the file has no "
                "formula for that."
            )
        names = [function.getArgument(i).getName() for i in known]
        local = dict(zip(names, arguments, strict=True))
        return self._translate(function.getBody(), f"{where}, in function {name!r},", local)

    def _compare(self, kind: str, left: Expression, right: Expression, where: str) -> Expression:
        """left < right. Where that is a matter of time: a state that an event switches."""
        turn = self._turn(left, right, where)
        if turn is None:
            return Expression(
                lambda v: truth(COMPARE[kind](left.value(v), right.value(v))),
                left.names | right.names,
            )
        when, rising = turn
        on = rising == (kind in ("gt", "geq"))  # true after that time, or before it
        time = float(when(self.numbers))
        if time <= 0:
            return Expression(lambda v: float(on))
        key = time, float(when({symbol: 1.1 * x + 0.1 for symbol, x in self.numbers.items()}))
        if key not in self.switches:
            name = self.switches[key] = self._free(f"switch_{len(self.switches) + 1}")
            self.about[name] = ("1", f"0 until the file's time {time:g}, then 1")
            self.states[name] = self.first[name] = Expression(lambda v: 0.0)
            needs = self.leaves(left.names | right.names) - {TIME}
            if needs:
                self.delays[name] = (when, needs)
                self.events.append(Bolus(0.0, 1.0, product=name))
            else:
                self.events.append(Replace(time / self.per_day, 1.0, name))
        name = self.switches[key]
        return Expression(lambda v: v[name] if on else 1 - v[name], frozenset({name}))

    def _turn(
        self, left: Expression, right: Expression, where: str, advice: str = ""
    ) -> tuple[Moment, bool] | None:
        """Time at which left - right crosses 0, given the constants, and whether upwards.

        None where time has no part in it.
        """
        leaves = self.leaves(left.names | right.names)
        if TIME not in leaves:
            return None

        def gap(constants: Values, time: Numbers) -> Numbers:
            v = self.at(constants, {}, time)
            return left.value(v) - right.value(v)

        def when(constants: Values) -> Array:
            zero, one = gap(constants, 0.0), gap(constants, 1.0)
            return jnp.asarray(zero / (zero - one), float)

        line = None if leaves & set(self.states) else straight_line(partial(gap, self.numbers))
        if line is None or line[1] == 0:
            raise self._clock(where, advice)
        return when, line[1] > 0

    def _clock(self, where: str, advice: str = "") -> ModelError:
        return self.error(
            f"{where} switches with time, but not once and at a known time, so that a solver would "
            "step over it. "
            + (advice or "Take the switch out of the file, and give its pulses as a Regimen.")
        )

    # values

    def _entry(self, table: SymbolTable, name: str) -> Expression:
        """Translated entry of a table for a symbol."""
        entry = table[name]
        if not isinstance(entry, Expression):
            entry = table[name] = entry()
        return entry

    def leaves(self, names: Iterable[str], start: bool = False) -> set[str]:
        """Time, states and constants that these symbols come down to; at time 0: constants."""
        every: set[str] = set()
        for name in names:
            if (name, start) not in self.found:
                self.found[name, start] = None
                self.found[name, start] = self._leaves_of(name, start)
            below = self.found[name, start]
            if below is None:
                raise self.error(f"{name!r} is defined by itself. Break the circle of its rules.")
            every |= below
        return every

    def _leaves_of(self, name: str, start: bool) -> set[str]:
        if name == TIME or name in self.constants or (name in self.states and not start):
            return {name}
        if name in self.rules:
            return self.leaves(self._entry(self.rules, name).names, start)
        if name in self.first:
            return self.leaves(self._entry(self.first, name).names, True)
        raise self.error(f"{name!r} has no value at time 0. Give it one in the file.")

    @property
    def numbers(self) -> dict[str, float]:
        """The constants as the file has them."""
        return {symbol: constant[0] for symbol, constant in self.constants.items()}

    def at(self, constants: Values, y: Values | None, time: Numbers) -> Found:
        """Values of all symbols with these states; without states those at time 0."""

        def initially(name: str) -> Callable[[Values], Numbers]:
            return self._entry(self.rules if name in self.rules else self.first, name).value

        def later(name: str) -> Callable[[Values], Numbers]:
            return initially(name) if name in self.rules else lambda v: start[name]

        start = Found({**constants, TIME: 0.0}, initially)
        return start if y is None else Found({**constants, **y, TIME: time}, later)

    # the model

    def field(self, symbol: str, base: type) -> str:
        """A symbol as the name of a field."""
        name = symbol
        while keyword.iskeyword(name) or name == "self" or hasattr(base, name):
            name += "_"
        return name if name == symbol else self._free(name)

    def to_model(self) -> ODEModel:
        """The structural model."""
        rates = {name: self._entry(self.states, name) for name in list(self.states)}
        variables = [x for x in self.about if x in self.states or x in self.rules]
        variables = [x for x in variables if x not in self.switches.values()]
        read = self.leaves({*variables, *names_of(rates.values())}) | self.leaves(self.states, True)
        rates = {name: self._entry(self.states, name) for name in self.states}
        places = {name: self.field(name, States) for name in self.states}
        read = read.union(*(needs for _, needs in self.delays.values()))
        fields = {name: self.field(name, Params) for name in self.constants if name in read}
        if not (fields and set(variables) & set(places)):
            raise self.error("it has no differential equation with a parameter.")
        everywhere, positive = (-math.inf, math.inf), (0.0, math.inf)
        constants = {
            fields[name]: param(*known, bounds=positive if known[0] > 0 else everywhere)
            for name, known in self.constants.items()
            if name in read
        }
        params = _class(Params, constants)
        states = _class(States, {places[x]: state(*self.about[x]) for x in self.states})
        unread = [name for name in self.constants if name not in read and name in self.ids]
        doc, reference = self._doc(unread), self._reference()
        for table in (self.rules, self.first):  # what is left needs libSBML, which ends here
            for name in [x for x, entry in table.items() if not isinstance(entry, Expression)]:
                del table[name]
        self.sbml = None

        def known(p: Params) -> dict[str, Numbers]:
            return {symbol: getattr(p, name) for symbol, name in fields.items()}

        def values(t: Numbers, y: States, p: Params) -> Found:
            levels = {symbol: getattr(y, name) for symbol, name in places.items()}
            return self.at(known(p), levels, t * self.per_day)

        def vector_field(t: Numbers, y: States, p: Params) -> States:
            v = values(t, y, p)
            slopes = {places[x]: self.per_day * rate.value(v) for x, rate in rates.items()}
            return states(**{name: jnp.asarray(x, float) for name, x in slopes.items()})

        def initial(p: Params) -> States:
            v = self.at(known(p), None, 0.0)
            return states(**{name: jnp.asarray(v[x], float) for x, name in places.items()})

        def lag(when: Moment, p: Params) -> Array:
            return jnp.maximum(when(known(p)), 0.0) / self.per_day

        def output(symbol: str, t: Numbers, y: States, p: Params) -> Array:
            return jnp.asarray(values(t, y, p)[symbol], float)

        start = initial(params())
        for name in places.values():
            if not math.isfinite(getattr(start, name)):
                raise self.error(f"{name!r} is {getattr(start, name)} at time 0.")
        return ODEModel(
            name=self.path.stem,
            reference=reference,
            params=params,
            states=states,
            vector_field=vector_field,
            initial=initial,
            targets={
                name: Target(name, lag=partial(lag, when))
                for name, (when, _) in self.delays.items()
            },
            outputs={self.field(x, States): partial(output, x) for x in variables},
            units={self.field(x, States): self.about[x][0] for x in variables},
            regimens={"file": Regimen(tuple(self.events))} if self.events else {},
            doc=doc,
        )

    def _doc(self, unread: list[str]) -> str:
        """Name, notes in short, and what was made of the file."""
        title = self.sbml.getName() or self.sbml.getId() or self.path.stem
        text = re.sub(
            r"<(style|head)\b.*?</\1>|<[^>]*>", " ", self.sbml.getNotesString(), flags=re.S
        )
        text = textwrap.shorten(html.unescape(text), 600, placeholder=" ...")
        form = f"SBML Level {self.sbml.getLevel()} Version {self.sbml.getVersion()}"
        made = [f"Read from {self.path.name}, {form}. Day 0 is the file's time 0.", *self.notes]
        if len(self.events) > len(self.switches):
            made.append('Its events are in regimens["file"].')
        if self.switches:
            times = ", ".join(f"{time:g}" for time, _ in self.switches)
            made.append(
                f"What changes in the equations at the file's time {times} is switched by "
                'regimens["file"]: add other regimens to it.'
            )
        if unread:
            made.append(f"Left out, as no equation has them: {', '.join(unread)}.")
        return "\n\n".join(textwrap.fill(x, 100) for x in (title, text, " ".join(made)) if x)

    def _reference(self) -> str:
        """The paper, where the annotation of the model or its notes name a DOI."""
        text = f"{self.sbml.getAnnotationString()} {self.sbml.getNotesString()}"
        found = re.search(r"doi(?:\.org)?[:/]\s*(10\.\d+(?:/|%2F)[^\s\"<>]+)", text, flags=re.I)
        return f"doi:{found[1].replace('%2F', '/').rstrip('.,;)')}" if found else ""


def _class(base: type[Fields], fields: Mapping[str, object]) -> type[Fields]:
    """A class of parameters or states with these fields."""
    annotations = dict.fromkeys(fields, Scalar)
    metaclass: Callable[..., type[Fields]] = type(base)
    return metaclass(base.__name__, (base,), {"__annotations__": annotations, **fields})


def _label(event: libsbml.Event) -> str:
    return f"event {event.getId() or event.getName() or f'of line {event.getLine()}'!r}"
