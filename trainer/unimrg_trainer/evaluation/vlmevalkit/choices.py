"""Reads the option out of a reply to a multiple-choice question, without a judge, by one of VLMEvalKit's rule sets.

The rules, step by step and with what they do to replies that people would read otherwise, are in
docs/method/evaluation.md. VLMEvalKit changed them twice, so every score names its rule set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

RULE_SETS = {"Vk0020": "vk-0.0.20", "Vk202606": "vk-2026-06"}
"""Rule set in a job → its name in results: the release 0.0.20 (May 2026), and the changes of 2026-06-17."""
REFUSED = "Z"
"""What a reply that refuses to answer is taken for; no option, so it is wrong."""
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NO_REPLY = "Failed to obtain answer via API"
TAIL = 4
"""A letter counts if its first place is among the last so many words."""
_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"(?:correct\s+)?answer\s+is\s*\**\s*([A-D])\b", re.IGNORECASE)


def extract_choice(reply: str, options: Mapping[str, str], rule_set: str) -> str:
    """Return the letter of the option that a reply chooses, `Z` for a refusal, and nothing where it is not clear.

    `options` are letter → text, `rule_set` is a value of `RULE_SETS`.
    """
    return _by_letter(reply, options, rule_set) or _by_text(reply, options)


def _by_letter(reply: str, options: Mapping[str, str], rule_set: str) -> str:
    if NO_REPLY in reply:
        return ""
    if any(refusal in reply for refusal in REFUSALS):
        return REFUSED
    words = reply.translate(_BLANKS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - TAIL:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    if rule_set == RULE_SETS["Vk202606"] and (stated := _ANSWER_IS.search(reply)):
        return stated.group(1).upper()
    return ""


def _by_text(reply: str, options: Mapping[str, str]) -> str:
    lower = reply.lower()
    if len(lower) > 2 * sum(len(text) for text in options.values()):
        return ""
    found = [letter for letter, text in options.items() if text.lower() in lower]
    return found[0] if len(found) == 1 else ""
