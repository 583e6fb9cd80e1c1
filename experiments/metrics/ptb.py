"""Words as ROUGE-L, CIDEr and METEOR count them: Penn Treebank tokens in lower case.

After Stanford's PTBTokenizer 3.4.1 with `-preserveLines -lowerCase`, without what pycocoevalcap
takes for punctuation. The rules follow what that program does with English text: the longest match
wins, and of equally long ones the first.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from experiments.metrics.challenge import repair_text

LETTER = r"[^\W\d_ª²³¹º¼½¾]"
WORD = rf"(?:{LETTER}|\d)+(?:_(?:{LETTER}|\d)+)*"
QUOTE = "['\u2018\u2019\u201b`]"
APOSTROPHE = "['\u2019]"
CLITIC = "(?:'(?i:s|m|d|ll|re|ve)(?![A-Za-z])|\u2019(?i:s|m|d|ll|re|ve))"
PLAIN = "[A-Za-z0-9]"
TAG = r"</?[A-Za-z!?][A-Za-z0-9]*(?:\s[^<>&]*)?/?>"
# Their full stop belongs to them: in any case, and with a capital.
ABBREVIATIONS = (
    r"jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|adm|al|"
    r"asst|atty|attys|brig|capt|cmdr|col|cpl|det|dr|drs|gen|gov|hon|lieut|lt|maj|messrs|mlle|"
    r"mme|mr|mrs|ms|msgr|pfc|ph|pres|prof|pvt|rep|reps|rev|sen|sens|sfc|sgt|spc|supt|treas|adj|"
    r"assn|assoc|ave|bldg|blvd|bros|ct|dept|est|etc|ext|ft|inc|intl|jos|jr|ltd|mfg|mt|natl|plc|"
    r"pty|rd|seq|sq|sr|st|ste|tel|univ|vs|wm|a\.k\.a|alex|cf|cie|co|corp|cos|esq|ala|ariz|"
    r"calif|colo|conn|dak|fla|ga|ind|kan|kans|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|"
    r"va|vt|wis|wyo"
)
CAPITALS = "Ark|Az|Del|Ill|La|Miss|Ore|Pa|Tex|Wash"
# What begins a sentence after a single letter and a full stop.
STARTS = (
    r"A|About|After|An|As|At|But|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|"
    r"Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|"
    r"While|Yet|You"
)
# The group that matches is the token; what follows it in the pattern is only its context.
RULES = [
    re.compile(rule)
    for rule in (
        # Markup, and what is written in place of a character.
        rf"({TAG})",
        r"(&(?:#\d+|(?i:amp)|lt|gt|quot|nbsp|[A-Za-z](?:acute|grave|circ|uml));)",
        # Addresses.
        r"((?:https?|ftp)://[^\s<>\"|()]*[^\s<>\"|().,;:!?'])",
        rf"({PLAIN}[\w.-]{{0,60}}(?<=\w)@[\w-]+(?:\.[\w-]+)*,?)",
        r"([#@][A-Za-z]+)",
        rf"({LETTER}\w*(?:\.{LETTER}(?:{LETTER}|\d)*)+)(?!\w)",
        # Contractions: the verb before n't, n't, and words that are two.
        rf"([A-Za-z]*?[A-MO-Za-mo-z])[nN]{QUOTE}[tT]",
        rf"([nN]{QUOTE}[tT])",
        rf"({WORD}){CLITIC}",
        rf"({CLITIC})",
        r"([cC][aA][nN])[nN][oO][tT](?!\w|')",
        r"([gG]on|[wW]an)na(?!\w)|([gG]ot)ta(?!\w)|([gG]im|[lL]em)me(?!\w)",
        rf"({APOSTROPHE}[tT])(?:is|was)(?!\w)",
        rf"({APOSTROPHE}(?:\d\ds|[eE]m|[cC]ause|[nN]{APOSTROPHE}?|til))(?!\w)",
        rf"([dDoOlL]{APOSTROPHE}{LETTER}(?:{LETTER}|\d)*(?:-{PLAIN}+)*)",
        rf"([A-HJ-XZn]{QUOTE}{LETTER}{{2,}}|{LETTER}*[aeiouyAEIOUY]{QUOTE}[aeiouA-Z]{LETTER}*)",
        r"(c'est|[dD]'ye)(?!\w)",
        r"([yY]')all(?!\w)",
        # Letters with full stops; a word before a full stop and a comma is taken for short.
        rf"((?:[A-Za-z]\.)+)(?:$|(?!{LETTER}{{2}}))",
        rf"((?i:{ABBREVIATIONS})\.)",
        rf"((?:{CAPITALS})\.|[Nn]os\.|[Pp]h\.[Dd]\.?)",
        rf"((?:{WORD}|{PLAIN}[A-Za-z0-9.,]{{0,60}}(?:-{PLAIN}+)+)\.)[,;:]",
        r"([Nn]o\.)[\s\d]",
        # Numbers.
        r"([-+]?[.,:]?\d+(?:[.,:]\d+)*)",
        r"([A-Z]+\$)",
        r"((?:\d+-)?\d+\\?/\d+)",
        # Words with marks inside.
        rf"({PLAIN}[A-Za-z0-9.,]{{0,60}}(?:-(?:(?:[A-Za-z]\.){{2,}}|{PLAIN}+))+)",
        rf"({WORD}(?:[-\u2010\u2011]{WORD})+)",
        rf"({PLAIN}+(?:-[A-Za-z]+){{0,2}}(?:\\?/{PLAIN}+(?:-[A-Za-z]+){{0,2}}){{1,2}})",
        r"([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)",
        r"([cC]\+\+|[cCfF]#)",
        rf"({LETTER}+[!?]{LETTER}+)",
        rf"({WORD})",
        # Runs of one mark are one token.
        r"([!?]{2,}|\*+|_+|#{2,}|<<|>>|-{2,}|[\u2013\u2014]+)",
        r"([:;=]-?[()DdPp])(?!\w)",
        r"(.)",
    )
]
PUNCTUATION = {"", "'", "`", ".", "?", "!", ",", ":", "-", ";", "''", "``", '"', "..."}
REPLACED = {
    "\u00a3": "#",
    "\u20ac": "$",
    "\u00a4": "$",
    "\u00a2": "cents",
    "\u00bc": "1/4",
    "\u00bd": "1/2",
    "\u00be": "3/4",
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": "",
    "&quot;": "",
}
# Curly apostrophes become straight where they stand alone or in a token of their own: n't, 's.
STRAIGHT = str.maketrans("\u2018\u2019\u201b", "`'`")
APART = re.compile(rf"(?i:n?{QUOTE}(?:t|s|m|d|ll|re|ve)?)")
# Quotation marks, dashes and dots that the tokenizer turns into punctuation of the list.
MARKS = re.compile('-{2,}|[\u2013\u2014]+|[\u201c\u201d\u00ab\u00bb\u2039\u203a\u2026"]')
# Characters that it does not know and leaves out.
UNKNOWN = re.compile(
    "[\\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u20a0-\u20a3\u20a5-\u20ab\u20ad-\u20cf\ufe0f\ufffd]"
    "|[\U00010000-\U0010ffff]"
)
# What stands between spaces, but for a single letter that ends a sentence, `No. 5` and markup.
CHUNK = re.compile(
    rf"[A-Za-z](?=\.\s+(?:{STARTS}|{STARTS.upper()})\b)|[Nn]o\.\s+(?=\d)"
    rf"|{TAG}|[^\s\u200b]+"
)


def tokenize(text: str) -> list[str]:
    """The words of a text."""
    return [word for chunk in CHUNK.findall(text.replace("\u00ad", "")) for word in words(chunk)]


def tokenize_repaired(text: str) -> list[str]:
    """The tokens of a text as the E2E challenge's scorer reads it."""
    return tokenize(repair_text(text))


@lru_cache(maxsize=100_000)
def words(chunk: str) -> tuple[str, ...]:
    """The words of what stands between two spaces."""
    return tuple(word for token in tokens(chunk) if (word := write_token(token)) not in PUNCTUATION)


def tokens(chunk: str) -> Iterator[str]:
    """The parts of a chunk, as they stand there."""
    place = 0
    while place < len(chunk):
        found = [match for rule in RULES if (match := rule.match(chunk, place))]
        longest = max(found, key=lambda match: match.end())
        yield longest.group(longest.lastindex or 0)
        place = longest.end(longest.lastindex or 0)


def write_token(token: str) -> str:
    """A token as the tokenizer prints it; a mark that does not count is empty."""
    if MARKS.fullmatch(token) or UNKNOWN.fullmatch(token):
        return ""
    if APART.fullmatch(token):
        token = token.translate(STRAIGHT)
    token = token.lower()
    for old, new in REPLACED.items():
        token = token.replace(old, new)
    return token
