"""The patterns of ``regex`` that have a name: those of the reference code of the paper.

The names and what they are for are the reference's; the patterns are this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal[
    "math_front_ver1",
    "math_front_ver2",
    "both",
    "behind_math",
    "behind_math_ver2",
    "aqua_behind_math",
    "reasoning_front",
    "reasoning_behind",
]
Where = Literal["before", "after"]

# What is read as a number is never read again as a shorter one, so that no match ends within a
# number: a single character repeats by a possessive quantifier (++, *+, ?+), a group inside an
# atomic group, `(?>(?:…)*)`, since Python 3.11.0 to 3.11.4 match `(?:…)*+` wrongly. These, and
# bounds on what may stand in front of the first number, keep the search linear in the length of
# any text.
_GAP = r"[ \t\xa0]*+"
_CURRENCY = r"(?:(?:[$€£¥₹]|\b[Rr]s\.?+) ?+)"
# With thousands separators, wherever they stand; so 1,2,3 is as one too.
_DIGITS = r"(?:\d++(?>(?:,\d++)*)(?>(?:\.\d++)?)[¼½¾⅓⅔]?+|\.\d++|[¼½¾⅓⅔])"
# 1,148.50 · $5 · 5 € · 20% · 50¢
_AMOUNT = rf"(?:(?>{_CURRENCY}?){_DIGITS}(?>(?: ?+[%¢€£])?))"
_MINUS = r"\-−–"
_SIGN = rf"[+{_MINUS}]?+"
_OPERATORS = rf"*/⁄+{_MINUS}×÷·⋅∗"

# Where an expression may begin: not within a word, a number or another expression, nor in the
# line with the answer.
_START = (
    rf"(?<![\w.,^√)\]}}{_OPERATORS}])(?<!\d:)(?<!√[(\[])(?<![\w)\]] [xX{_OPERATORS}] )"
    r"(?<!####)(?<!#### )"
)
_TERM = rf"(?>(?:[(\[] ?+){{0,4}}){_SIGN}{_AMOUNT}(?>(?: ?+[)\]])*)"
_BRACKET_NEXT = r"(?<=[\w)\]}])(?=[(\[{√])"  # 500(.40), 4√3: products
_TIMES = rf"[xX](?!{_GAP}[+{_MINUS}])"  # in 2x + 5 it is a variable
_JOIN = rf"(?:{_GAP}(?:[={_OPERATORS}]|{_TIMES}){_GAP}|{_BRACKET_NEXT})"
# `[^<>\n]*>>` follows only what is inside a mark <<…>>.
_EXPRESSION = rf"{_START}{_TERM}(?>(?:{_JOIN}{_TERM})+)(?![^<>\n]*+>>)"
_MARK = rf"(?>{_CURRENCY}?)<<"

# As they stand in algebra: x, 3x, 2(a + b)², √5, x₁ written x1, 60km.
_POWER = r"(?>(?:[²³!]|(?: ?+[)\]}]))*)(?>(?: ?+%)?)"
_OPENING = r"(?>(?:[(\[{] ?+){0,4})"
_OPEN = rf"{_OPENING}{_SIGN}{_OPENING}√?+"
_NUMERIC = rf"(?:{_OPEN}{_AMOUNT}(?>(?:[CP]\d++|(?![xX]\d)[^\W\d_]++)?){_POWER})"
_VARIABLE = rf"(?:{_OPEN}(?<![^\W_])[^\W\d_]\d?+(?![^\W_])(?!['’]){_POWER})"
_RELATE = rf"(?:{_GAP}(?:[=<>≤≥≠≈⇒^{_OPERATORS}]{{1,3}}|{_TIMES}){_GAP}|{_BRACKET_NEXT})"
_EITHER = rf"(?:{_NUMERIC}|{_VARIABLE})"
# At least one number and one operator.
_ALGEBRA = (
    rf"(?:{_START}(?:(?>(?:{_VARIABLE}{_RELATE}){{1,8}}){_NUMERIC}|{_NUMERIC}(?={_RELATE}{_EITHER}))"
    rf"|(?<![=<>!])[=≈]>?+{_GAP}{_NUMERIC})(?>(?:{_RELATE}{_EITHER})*)"
)

# An equals sign with a number on each side, as in `3 * 4 = 12`. Led by the sign: found faster.
_NUMBER_ENDS = r"[\d%¢€£¼½¾⅓⅔]"
_EQUATION = (
    rf"[=≈](?:(?<={_NUMBER_ENDS}.)|(?<={_NUMBER_ENDS}[)\]].)"
    rf"|(?<={_NUMBER_ENDS} .)|(?<={_NUMBER_ENDS}[)\]] .))"
    rf"{_GAP}(?>(?:[(\[] ?+)*){_SIGN}(?>{_CURRENCY}?)\.?+[\d¼½¾⅓⅔]"
)
# No match reaches over a line break.
CALCULATION = rf"<<[^<>\n]*+>>|{_EQUATION}"


@dataclass(frozen=True)
class Preset:
    """A pattern with a name."""

    pattern: str
    where: Where
    explanation: str
    example: str  # a text with the pauses that it puts there
    whole_sentence: bool = False  # the sentence that holds a match stands for it


PRESETS: dict[Name, Preset] = {
    "math_front_ver1": Preset(
        _EXPRESSION,
        "before",
        "Before an arithmetic expression in the running text: numbers with `x X * × · - − – + / ÷` "
        "or `=` between them, as a whole, with its currency signs and brackets. Thousands "
        "separators, decimals, fractions and percentages are parts of a number. What stands "
        "inside `<<…>>` or directly after `#### ` is left alone. A word or a variable ends an "
        "expression, and none begins right after an operator other than `=` that stands behind "
        "one. A range such as 10-15 and a fraction such as 2/3 count: by form they are a "
        "difference and a quotient.",
        "So [PAUSE]100 / 2 = $<<100/2=50>>50.",
    ),
    "math_front_ver2": Preset(
        _MARK,
        "before",
        "Before a GSM8K calculation mark: `<<`, or `$<<` where a currency sign stands before it.",
        "So 100 / 2 = [PAUSE]$<<100/2=50>>50.",
    ),
    "both": Preset(
        f"{_EXPRESSION}|{_MARK}",
        "before",
        "`math_front_ver1` and `math_front_ver2` together: before the expression, and before the "
        "mark that computes it.",
        "So [PAUSE]100 / 2 = [PAUSE]$<<100/2=50>>50.",
    ),
    "behind_math": Preset(
        ">>",
        "after",
        "After the `>>` that ends a calculation mark: between the calculation and its result.",
        "So 100 / 2 = $<<100/2=50>>[PAUSE]50.",
    ),
    "behind_math_ver2": Preset(
        rf">> ?+[{_MINUS}]?+{_AMOUNT}(?>(?:/{_DIGITS})?)",
        "after",
        "After `>>` and the number that follows it, whole: with thousands separators, decimals, "
        "currency and percent signs.",
        "So 100 / 2 = $<<100/2=50>>50[PAUSE].",
    ),
    "aqua_behind_math": Preset(
        _ALGEBRA,
        "after",
        "For AQuA-RAT, which has no marks: after each run of arithmetic. A run is numbers, "
        "single-letter variables, currency and brackets with operators or relations (`= < ≥ ⇒ …`) "
        "between them, as long as it goes on in one line, or an equals sign and what follows; it "
        "has a number and an operator, so that a bare number, $5 or (18) is none. Not directly "
        "after `#### `. The reference code puts its pauses before such runs, although the name "
        "says behind: `where: before` gives that.",
        "So x = (5 * 12) / 3[PAUSE] and the total = $20[PAUSE].",
    ),
    "reasoning_front": Preset(
        ">>",
        "before",
        "Before each sentence that contains `>>`, by the rule of the strategy `sentence`.",
        "He has two. [PAUSE]So 2 + 3 = <<2+3=5>>5 are left.",
        whole_sentence=True,
    ),
    "reasoning_behind": Preset(
        ">>",
        "after",
        "After each sentence that contains `>>`, by the rule of the strategy `sentence`.",
        "So 2 + 3 = <<2+3=5>>5 are left.[PAUSE] He goes.",
        whole_sentence=True,
    ),
}
