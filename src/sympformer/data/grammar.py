"""A probabilistic grammar with variables, and the exact probability of every next token.

A grammar is a text of rules. Each rule lists its alternatives, on lines or between slashes:

    tale:
        3 <hero=girl> lost {hero.her} <toy=toy>. <weep> {hero} found the {toy}.
        <hero=girl> sang <song-{hero.voice}>.
    weep:
        -
        {hero.she} wept.
    girl: she=she her=her voice=low
        Lily / Anna
        Mia | voice=high

`3 ` is a weight (1 if absent), `-` the empty text, `<rule>` an expansion of that rule.
`<hero=girl>` also binds the alternative chosen, which must be plain words, to a variable; words
that a variable holds are not drawn again, and the others share their probability. `{hero}` says
those words once more, `{hero.her}` one of the attributes (`key=word` after `|`, or after the
rule's name for all its alternatives), and `<place=place.in>` binds a value but says its
attribute. A rule's name may depend on what happened before: `<song-{hero.voice}>`. Rules may not
call themselves, so every text is finite. It closes with the token `END`.

A state of the leftmost derivation is what is still to be said (a stack of nodes) and what the
variables hold. A prefix is in general consistent with several states; the forward algorithm
carries the probability of each, so that ambiguous grammars need no special care.
"""

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from sympformer.errors import InputError

END = "<|endoftext|>"

_ITEM = re.compile(r"<[^>]*>|\{[^}]*\}|'?\w+|[^\w\s]")
_SAY = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
_EXPAND = re.compile(r"<(?:(\w+)=)?((?:[\w-]|\{[\w.]+\})+)(?:\.(\w+))?>")
_RULE = re.compile(r"([\w-]+):((?:\s+\w+=\S+)*)")
_ALTERNATIVE = re.compile(r"\s+(?:([1-9]\d*)\s)?([^|]+)(?:\|((?:\s+\w+=\S+)*))?")


class Say(NamedTuple):
    """`{variable.attribute}`: a word of a value bound before; "" is the value's own words."""

    variable: str
    attribute: str


class Expand(NamedTuple):
    """`<variable=rule.attribute>`: an alternative of `rule`, bound to `variable` unless ""."""

    variable: str
    rule: tuple[str | Say, ...]
    attribute: str


Item = str | Say | Expand


@dataclass(frozen=True, eq=False, slots=True)
class Alternative:
    """One line of a rule; as the value of a variable, `says` maps "" to its words."""

    weight: int
    items: tuple[Item, ...]
    says: dict[str, str]


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """An item and what follows it; equal remainders are one node, so that equal states merge."""

    item: Item
    after: "Node | None"


Environment = tuple[Alternative | None, ...]
Stack = tuple[Node, "Stack"] | None
State = tuple[Stack, Environment] | None  # None: the text is closed
Choice = tuple[float, Node | None, Environment]


def parse(text: str) -> dict[str, list[Alternative]]:
    """Read rules in the notation above: the alternatives of each rule.

    Raises:
        InputError: a line cannot be read.
    """
    rules: dict[str, list[Alternative]] = {}
    alternatives, shared = [], {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].rstrip()
        if not line:
            continue
        if match := _RULE.fullmatch(line):
            shared = dict(pair.split("=") for pair in match[2].split())
            alternatives = rules.setdefault(match[1], [])
        elif rules and (match := _ALTERNATIVE.fullmatch(line)):
            own = dict(pair.split("=") for pair in (match[3] or "").split())
            for template in match[2].split("/"):
                tokens = [token for token in _ITEM.findall(template) if token != "-"]
                items = tuple(_item(token, number) for token in tokens)
                says = {"": " ".join(tokens)} | shared | own
                alternatives.append(Alternative(int(match[1] or 1), items, says))
        else:
            raise InputError(f"line {number} of the grammar is neither a rule nor an alternative")
    return rules


def _item(token: str, number: int) -> Item:
    if match := _SAY.fullmatch(token):
        return Say(match[1], match[2] or "")
    if match := _EXPAND.fullmatch(token):
        rule = tuple(_part(part) for part in re.split(r"(\{[\w.]+\})", match[2]) if part)
        return Expand(match[1] or "", rule, match[3] or "")
    if "<" in token or "{" in token:
        raise InputError(f"line {number} of the grammar: cannot read {token}")
    return token


def _part(text: str) -> str | Say:
    match = _SAY.fullmatch(text)
    return Say(match[1], match[2] or "") if match else text


class Grammar:
    """A distribution over finite texts, given by rules in the notation above.

    `vocabulary` lists the tokens that can occur (sorted, without `END`); every text has between
    `shortest` and `longest` tokens (`END` not counted).

    Raises:
        InputError: the rules cannot be read, name what does not exist, or call themselves.
    """

    def __init__(self, text: str, start: str):
        self._rules = parse(text)
        self._node = cache(Node)
        self._words = cache(lambda text: self._chain(text.split()))
        self._heads = {
            name: [(a.weight / sum(b.weight for b in rule), self._chain(a.items)) for a in rule]
            for name, rule in self._rules.items()
        }
        self._draws: dict[str, list[Expand]] = {}
        for rule in self._rules.values():
            for item in (item for alternative in rule for item in alternative.items):
                if isinstance(item, Expand) and item.variable:
                    self._draws.setdefault(item.variable, []).append(item)
        self._slots = {variable: slot for slot, variable in enumerate(sorted(self._draws))}

        self._spans: dict[Item, tuple[int, int] | None] = {}
        origin = Expand("", (start,), "")
        self.shortest, self.longest = self._span(origin)
        self.vocabulary = sorted(item for item in self._spans if isinstance(item, str))
        self._start = (self._node(origin, None), None), (None,) * len(self._slots)

    def sample(self, rng: random.Random) -> list[str]:
        """Draw a text, closed by `END`; it depends on nothing but the values of `rng.random()`."""
        tokens: list[str] = []
        stack: Stack
        held: Environment
        stack, held = self._start
        while stack is not None:
            item, stack = _pop(stack)
            if isinstance(item, str):
                tokens.append(item)
                continue
            _, head, held = _pick(self._choices(item, held), rng.random())
            stack = _push(head, stack)
        return [*tokens, END]

    def log_probs(self, tokens: Sequence[str]) -> np.ndarray:
        """Log-probability of each token given those before it, in nats; shape (len(tokens),).

        It is -inf from the first token on that cannot follow its prefix.
        """
        result = np.full(len(tokens), -math.inf)
        belief: dict[State, float] = {self._start: 1.0}
        for position, token in enumerate(tokens):
            belief, probability = self._observe(belief, token)
            if not belief:
                break
            result[position] = math.log(min(probability, 1.0))
        return result

    def next_distribution(self, prefix: Iterable[str] = ()) -> dict[str, float]:
        """Probability of every token that can follow `prefix`; empty if `prefix` cannot occur."""
        belief: dict[State, float] = {self._start: 1.0}
        for token in prefix:
            belief, _ = self._observe(belief, token)
        result: dict[str, float] = {}
        for state, weight in belief.items():
            for probability, token, _ in self._moves(state):
                result[token] = result.get(token, 0.0) + weight * probability
        return result

    def _observe(self, belief: dict[State, float], token: str) -> tuple[dict[State, float], float]:
        """One step of the forward algorithm: the states after `token`, and its probability."""
        joint: dict[State, float] = {}
        for state, weight in belief.items():
            for probability, word, after in self._moves(state):
                if word == token:
                    joint[after] = joint.get(after, 0.0) + weight * probability
        total = sum(joint.values())
        return {state: weight / total for state, weight in joint.items()}, total

    def _moves(self, state: State) -> list[tuple[float, str, State]]:
        """Every way to say one more token: (probability, token, state after it)."""
        if state is None:
            return []
        moves: list[tuple[float, str, State]] = []
        pending = [(1.0, *state)]
        while pending:
            weight, stack, held = pending.pop()
            if stack is None:
                moves.append((weight, END, None))
                continue
            item, stack = _pop(stack)
            if isinstance(item, str):
                moves.append((weight, item, (stack, held)))
                continue
            for probability, head, binding in self._choices(item, held):
                pending.append((weight * probability, _push(head, stack), binding))
        return moves

    def _choices(self, item: Say | Expand, held: Environment) -> list[Choice]:
        """Every way to expand `item`: (probability, first node, what the variables then hold)."""
        if isinstance(item, Say):
            return [(1.0, self._words(self._said(item, held)), held)]
        name = "".join(p if isinstance(p, str) else self._said(p, held) for p in item.rule)
        if not item.variable:
            return [(probability, head, held) for probability, head in self._heads[name]]
        taken = {value.says[""] for value in held if value is not None}
        free = [value for value in self._rules[name] if value.says[""] not in taken]
        if not free:
            raise InputError(f"the grammar has used up every alternative of {name}")
        total = sum(value.weight for value in free)
        slot = self._slots[item.variable]
        before, after = held[:slot], held[slot + 1 :]
        return [
            (v.weight / total, self._words(v.says[item.attribute]), (*before, v, *after))
            for v in free
        ]

    def _said(self, item: Say, held: Environment) -> str:
        value = held[self._slots[item.variable]]
        if value is None:
            raise InputError(f"the grammar says {item.variable} before it draws it")
        return value.says[item.attribute]

    def _chain(self, items: Iterable[Item]) -> Node | None:
        head = None
        for item in reversed(tuple(items)):
            head = self._node(item, head)
        return head

    def _span(self, item: Item) -> tuple[int, int]:
        """Fewest and most tokens of `item`."""
        if isinstance(item, str):
            self._spans[item] = 1, 1
        elif item not in self._spans:
            self._spans[item] = None  # being measured
            lengths = [[self._span(part) for part in items] for items in self._bodies(item)]
            shortest = min(sum(low for low, _ in parts) for parts in lengths)
            longest = max(sum(high for _, high in parts) for parts in lengths)
            self._spans[item] = shortest, longest
        span = self._spans[item]
        if span is None:
            raise InputError(f"a rule of the grammar calls itself: {item}")
        return span

    def _bodies(self, item: Say | Expand) -> list[Sequence[Item]]:
        """What `item` can stand for, whatever happened before it."""
        if isinstance(item, Say):
            return [text.split() for text in self._texts(item)]
        rules = [self._rule(name) for name in self._names(item)]
        if not item.variable:
            return [alternative.items for rule in rules for alternative in rule]
        return [_attribute(value, item.attribute).split() for rule in rules for value in rule]

    def _texts(self, item: Say) -> list[str]:
        """Every text that `item` can be."""
        if item.variable not in self._draws:
            raise InputError(f"the grammar says {item.variable} but never draws it")
        names = {name for draw in self._draws[item.variable] for name in self._names(draw)}
        return [_attribute(value, item.attribute) for name in names for value in self._rule(name)]

    def _names(self, item: Expand) -> list[str]:
        """Every rule that `item` can expand."""
        parts = [[part] if isinstance(part, str) else self._texts(part) for part in item.rule]
        return sorted({"".join(choice) for choice in product(*parts)})

    def _rule(self, name: str) -> list[Alternative]:
        if not self._rules.get(name):
            raise InputError(f"the grammar has no alternatives for {name}")
        return self._rules[name]


def _attribute(value: Alternative, attribute: str) -> str:
    if attribute not in value.says or not all(isinstance(item, str) for item in value.items):
        raise InputError(
            f"the grammar binds '{value.says['']}', which is not plain words or has no {attribute}"
        )
    return value.says[attribute]


def _pick(choices: list[Choice], uniform: float) -> Choice:
    for choice in choices[:-1]:
        uniform -= choice[0]
        if uniform < 0:
            return choice
    return choices[-1]


def _pop(stack: tuple[Node, Stack]) -> tuple[Item, Stack]:
    node, below = stack
    return node.item, _push(node.after, below)


def _push(node: Node | None, stack: Stack) -> Stack:
    return stack if node is None else (node, stack)
