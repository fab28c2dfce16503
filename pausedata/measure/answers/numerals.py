"""Numbers as models write them, read where it is plain which one is meant.

A text is read from a place on. What is no number there is no answer, and neither is what could be
two: ``1 23``, ``5-6``, ``3 + 4``, ``10:30``, ``5k``. Every pattern is bounded, so that no text
takes longer than its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 400  # digits in a row, and the largest exponent of ten

_SPACES = " \u00a0\u2007\u2009\u202f"  # plain, no-break, figure, thin, narrow no-break
# What may stand before a number, in any order: Markdown, LaTeX around it, space.
_DRESS = re.compile(
    rf"(?:[*_`$\[{_SPACES}\r\n\t]|\\[(\[,!]|\\(?:boxed|fbox|text|textbf|mathbf|mathrm|bf)?\{{){{0,12}}"
)
_CURRENCY = r"(?:\\?[$¢£¤¥৳฿₡-⃀]|(?:US|USD|EUR|GBP)(?![A-Za-z]))"
_SIGN = "[-+\u2212]"
# The sign stands before the currency or behind it: -$5, $-5.
_HEAD = re.compile(
    rf"(?P<first>{_SIGN})?(?:{_CURRENCY}[{_SPACES}]?){{0,2}}(?P<second>{_SIGN})?(?=[0-9.\\])"
)

_LATEX_FRACTION = re.compile(
    r"\\[dt]?frac[ ]?\{[ ]?([0-9]{1,400})[ ]?\}[ ]?\{[ ]?([0-9]{1,400})[ ]?\}"
)
_FRACTION = re.compile(
    rf"(?:([0-9]{{1,400}})[{_SPACES}](?=[1-9]))?([0-9]{{1,400}})[ ]?[/\u2044][ ]?([0-9]{{1,400}})"
)
_POWER_OF_TEN = re.compile(rf"10(?:\^|\*\*)(?:({_SIGN}?[0-9]{{1,4}})|\{{({_SIGN}?[0-9]{{1,4}})\}})")
# From the most particular to the plainest; "point" is what stands behind the point or comma.
_PLAIN = tuple(
    re.compile(form)
    for form in (
        # 1,000 and 1,234.5; 12,34,567 as in India
        r"(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3}){1,130})(?:\.(?P<point>[0-9]{1,400}))?",
        r"(?P<whole>[1-9][0-9]?(?:,[0-9]{2}){1,130},[0-9]{3})(?:\.(?P<point>[0-9]{1,400}))?",
        # 1 000, with any of the spaces but one kind only
        rf"(?P<whole>[1-9][0-9]{{0,2}}(?P<space>[{_SPACES}])[0-9]{{3}}(?:(?P=space)[0-9]{{3}}){{0,130}})"
        r"(?:[.,](?P<point>[0-9]{1,400}))?",
        # 1.234.567 and 1.234,5; but 1.234 is little more than one
        r"(?P<whole>[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,130})(?:,(?P<point>[0-9]{1,400}))?",
        r"(?P<whole>[1-9][0-9]{0,2}\.[0-9]{3}),(?P<point>[0-9]{1,400})",
        # 10,5 and 0,125: no thousands; 1234,567 could be either
        r"(?P<whole>0(?=,)|[0-9]{1,400}(?=,(?![0-9]{3}(?![0-9])))),(?P<point>[0-9]{1,400})",
        # 1000, 10.5, .5
        r"(?P<whole>[0-9]{1,400})?(?:\.(?P<point>[0-9]{1,400}))?",
    )
)
_EXPONENT = re.compile(
    rf"[eE]({_SIGN}?[0-9]{{1,4}})(?![0-9A-Za-z])"
    r"|[ ]?(?:[*xX×·]|\\times|\\cdot)[ ]?10(?:\^|\*\*)"
    rf"(?:\{{({_SIGN}?[0-9]{{1,4}})\}}|({_SIGN}?[0-9]{{1,4}}))"
)
# What may not follow: then it is part of something else, or one of several.
_GOES_ON = re.compile(
    rf"[0-9]|[.,;:'’_{_SPACES}]{{1,3}}[0-9]"
    rf"|[ ]?(?:[-+*/xX×÷·=^:\u2212\u2013<>]|\\times|\\cdot|\\div){{1,2}}[ ]?\\?[$€£]?[(]?[0-9]"
    rf"|[{_SPACES}]{{1,2}}(?:and|or|to)[{_SPACES}]{{1,2}}\\?[$€£]?[0-9]"
    r"|[ ]?\\[dt]?frac|\^|[kKmMbB](?![A-Za-z])|[eE][-+\u2212]?[0-9]"
    r"|[ ]{1,2}(?:dozen|hundred|thousand|million|billion|trillion)"
)


@dataclass(frozen=True)
class Read:
    """A number that stands somewhere: ``value`` is None where it could be more than one."""

    value: Fraction | None


def read_number(text: str, at: int = 0) -> Read | None:
    """The number that begins at ``at``, behind what it is dressed in; None where none does."""
    dressed = _DRESS.match(text, at)
    head = _HEAD.match(text, dressed.end() if dressed else at)
    if head is None:
        return None
    value, end = _unsigned(text, head.end())
    if end == head.end():
        return None
    if value is None or (head["first"] and head["second"]) or _GOES_ON.match(text, end):
        return Read(None)
    return Read(-value if (head["first"] or head["second"] or "+") != "+" else value)


def _unsigned(text: str, at: int) -> tuple[Fraction | None, int]:
    """What stands at ``at``, and where it ends; None: it is no number, or more than one."""
    if found := _LATEX_FRACTION.match(text, at):
        return _divided("0", found[1], found[2]), found.end()
    if found := _POWER_OF_TEN.match(text, at):
        return _power(found[1] or found[2]), found.end()
    if found := _FRACTION.match(text, at):
        return _divided(found[1] or "0", found[2], found[3]), found.end()
    for form in _PLAIN:
        found = form.match(text, at)
        if found and found.end() > at and not _more_digits(text, found.end()):
            break
    else:
        return None, at + _is_digit(text, at)
    whole, point = re.sub("[^0-9]", "", found["whole"] or "0"), found["point"] or ""
    value = Fraction(int(whole + point), 10 ** len(point))
    if raised := _EXPONENT.match(text, found.end()):
        power = _power(next(group for group in raised.groups() if group))
        return None if power is None else value * power, raised.end()
    return value, found.end()


def _is_digit(text: str, at: int) -> bool:
    """A superscript (5²) and a vulgar fraction (5½) are digits, too."""
    return text[at : at + 1].isnumeric()


def _more_digits(text: str, at: int) -> bool:
    """Whether the digits go on, behind a point or comma or at once."""
    return _is_digit(text, at) or (text[at : at + 1] in (",", ".") and _is_digit(text, at + 1))


def _power(written: str) -> Fraction | None:
    exponent = int(written.replace("\u2212", "-"))
    return Fraction(10) ** exponent if abs(exponent) <= _LONGEST else None


def _divided(whole: str, above: str, below: str) -> Fraction | None:
    """``whole above/below``; None for what is no such number: 1/0, and 20 24/7."""
    if not int(below) or (int(whole) and int(above) >= int(below)):
        return None
    return int(whole) + Fraction(int(above), int(below))
