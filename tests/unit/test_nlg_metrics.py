"""The metrics of E2E NLG: numbers worked out by hand, the same as the official scorer's."""

import csv
import json
import shutil
import subprocess
import time
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from experiments.metrics import captions, meteor, mteval, nlg, ptb
from experiments.metrics.base import find_text_metrics
from experiments.metrics.challenge import group, read_outputs, repair_text, write_outputs

E2E = Path(__file__).parents[3] / "shared" / "data" / "e2e"
METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")  # of the challenge
COLUMNS = {metric.name: metric.columns for metric in find_text_metrics(METRICS)}
QUICK = [metric for metric in METRICS if metric != "METEOR"]


def score(outputs, references, metrics=METRICS):
    return nlg.score(outputs, references, metrics)


def statistics(outputs, references, metrics=METRICS):
    return nlg.statistics(outputs, references, metrics)


def from_statistics(metric: str, rows: np.ndarray) -> np.ndarray:
    return find_text_metrics([metric])[0].value(rows)


OUTPUTS = [
    "The Lantern is a quiet bar near the old mill. It isn't cheap!",
    "Near the mill, The Lantern serves soup for £15-20.",
    "Zuma's is a family-friendly café (rated 4 out of 5).",
    "a bar a bar a bar",
    "ZUMA'S SERVES SOUP",
    "",
]
REFERENCES = [
    [
        "The Lantern is a quiet, pricey bar by the old mill.",
        "It isn't cheap, but The Lantern is a quiet bar.",
    ],
    ["For £15-20 The Lantern near the mill serves soup."],
    ["Zuma's, a café, is family-friendly.", "Zuma's café: 4 out of 5.", "Families like Zuma's."],
    ["There is a bar.", "A bar is there, and another bar."],
    ["Zuma's serves soup", "soup"],
    ["Nothing is known of it.", "Who knows?"],
]
needs_coco = pytest.mark.skipif(find_spec("pycocoevalcap") is None, reason="needs the extra e2e")
needs_java = pytest.mark.skipif(meteor.missing() is not None, reason=str(meteor.missing()))
needs_data = pytest.mark.skipif(not E2E.exists(), reason="no shared/data/e2e beside the project")


def value(metric: str, outputs: list[str], references: list[list[str]]) -> float:
    found = score(outputs, references, [metric])[metric]
    assert found is not None
    return found


# What the program prints for each text, without punctuation.
TOKENS = {
    "It's near Zuma's, isn't it?": "it 's near zuma 's is n't it",
    "You'll say they've gone; I'm sure she'd go.": "you 'll say they 've gone i 'm sure she 'd go",
    "It\u2019s here and it isn\u2019t there": "it 's here and it is n't there",
    "Soup for £15-20, or €3.50!": "soup for # 15-20 or $ 3.50",
    "£15-£20": "# 15 # 20",
    "A family-friendly, low-priced bar - by the sea": "a family-friendly low-priced bar by the sea",
    "soup,low-priced and quiet,cheap": "soup,low-priced and quiet cheap",
    "rated 4/5 or 80% (or so) [really]": "rated 4/5 or 80 % -lrb- or so -rrb- -lsb- really -rsb-",
    'a "good" \u201cbar\u201d called `Zuma\'': "a good bar called zuma",
    "We cannot. Gonna eat, can't wait": "we can not gon na eat ca n't wait",
    "The mill.The sea.It 5.It": "the mill.the sea.it 5 it",
    "in the center., near it": "in the center. near it",
    "At 10 a.m. in the U.S. St. Mary Ave. etc.": "at 10 a.m. in the u.s. st. mary ave. etc.",
    "No. 5 says no.": "no. 5 says no",
    "Plan B. The bar": "plan b the bar",
    "D'Arcy and O'Neill at five o'clock": "d'arcy and o'neill at five o'clock",
    "B&B AT&T fish & chips &amp; wine": "b&b at&t fish & chips & wine",
    "Wait... what?! No -- yes \u2014 no": "wait what ?! no yes no",
    "CAFÉ Ünder 1,000 people": "café ünder 1,000 people",
    "rating:5 x \U0001f600 \ufffd \u2615 y": "rating :5 x \u2615 y",
    "<unk> a </s> <|end|>": "<unk> a </s> < | end | >",
    "mail a.b@c.org, see http://c.org/d.": "mail a.b@c.org, see http://c.org/d",
    "": "",
    " . ' ` ": "",
}


@pytest.mark.parametrize("text", TOKENS)
def test_words_are_those_of_the_treebank_in_lower_case(text: str) -> None:
    assert " ".join(ptb.tokenize(text)) == TOKENS[text]


@needs_coco
@needs_java
def test_words_are_those_of_the_program_in_pycocoevalcap(tmp_path: Path) -> None:
    texts = [text for text in [*TOKENS, *OUTPUTS, *chain.from_iterable(REFERENCES)] if text]
    file = tmp_path / "texts"
    file.write_text("\n".join(texts), encoding="utf-8")
    jar = meteor.program().parents[1] / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", str(file)]
    lines = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\n")
    dropped = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", ""}
    for text, line in zip(texts, lines, strict=False):
        assert ptb.tokenize(text) == [w for w in line.rstrip().split(" ") if w not in dropped]


def test_a_text_without_end_is_split_in_linear_time() -> None:
    for part in ("x", "a-", "a.b,", "'", "1/", "a.", "<a", "a@", "x_"):
        start = time.process_time()
        ptb.words.__wrapped__(part * 3000)
        # Quadratic time would be minutes.
        assert time.process_time() - start < 2, part


def test_bleu_is_the_published_formula() -> None:
    # 3, 2 and 1 of 4, 3 and 2 n-grams match, and the single one of four words counts 1/2.
    assert value("BLEU", ["the cat sat down"], [["the cat sat"]]) == pytest.approx(
        (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    )
    # All of the four words match, of six.
    assert value("BLEU", ["a b c d"], [["a b c d e f"]]) == pytest.approx(np.exp(1 - 6 / 4))


def test_bleu_is_smoothed_where_nothing_matches() -> None:
    expected = (1 / 2 / 4 * 1 / 4 / 3 * 1 / 8 / 2 * 1 / 16 / 1) ** (1 / 4)
    assert value("BLEU", ["x y z w"], [["a b c d"]]) == pytest.approx(expected)
    # One word has no pairs: the orders that do not exist count as certain.
    assert value("BLEU", ["x"], [["a b"]]) == pytest.approx((1 / 2) ** (1 / 4) * np.exp(1 - 2))


def test_bleu_equals_sacrebleu_wherever_each_order_has_a_match() -> None:
    # sacrebleu wants references as columns.
    columns = [[given[i] if i < len(given) else None for given in REFERENCES] for i in range(3)]
    expected = BLEU(lowercase=True, tokenize="13a").corpus_score(OUTPUTS, columns).score / 100
    assert value("BLEU", OUTPUTS, REFERENCES) == pytest.approx(expected)


def test_only_plain_letters_lose_their_case_in_bleu_and_nist() -> None:
    assert mteval.tokenize("CAFÉ Éa") == ["cafÉ", "Éa"]


def test_nist_weighs_matches_by_what_the_last_word_tells() -> None:
    # Of 4 words a occurs twice, b once, and b follows a once in two: 1, 2 and 1 bit.
    assert value("NIST", ["a b"], [["a b", "a c"]]) == pytest.approx((1 + 2) / 2 + 1)


def test_two_thirds_of_the_length_halve_nist() -> None:
    assert value("NIST", ["a b"], [["a b c"]]) == pytest.approx(np.log2(3) / 2)


def test_the_length_that_nist_expects_is_a_mean_over_the_whole_set() -> None:
    # Ten words of three references of two examples: 1.5 references of 20/3 words in all.
    outputs, references = ["a b", "c d"], [["a b"], ["c d e f", "c d g h"]]
    found = statistics(outputs, references, ["NIST"])["NIST"]
    penalty = np.exp(np.log(0.5) * (np.log(4 / (10 / 1.5)) / np.log(1.5)) ** 2)
    plain = np.sum(found[:, :5].sum(axis=0) / np.maximum(found[:, 5:10].sum(axis=0), 1))
    assert from_statistics("NIST", found) == pytest.approx(plain * penalty)


def test_a_word_after_a_lone_zero_is_weighed_as_if_it_stood_alone() -> None:
    # Four words; the Perl program takes "0" for no word before the other.
    weights = mteval.information(mteval.Counter({("0",): 2, ("a",): 2, ("0", "a"): 1}))
    assert weights[("0", "a")] == pytest.approx(np.log2(4 / 1))


def test_rouge_takes_the_best_precision_and_the_best_recall() -> None:
    # Two of four words are in the first (2 of 6), one in the second (1 of 1).
    precision, recall = 2 / 4, 1 / 1
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    references = [["red x blue y z w", "green"]]
    assert value("ROUGE_L", ["red blue green pink"], references) == pytest.approx(expected)


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        first, second = (list(generator.choice(list("abcd"), generator.integers(12))) for _ in "ab")
        table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                best = max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else best
        assert captions.longest_common(first, second) == table[-1, -1]


def test_cider_is_ten_times_the_mean_cosine_over_four_orders() -> None:
    references = [["red bar"], ["blue pub"]]
    # Equal words and pairs; there are no longer runs.
    assert value("CIDEr", ["red bar", "blue pub"], references) == pytest.approx(10 * 2 / 4)
    # One of two equally rare words, no pair.
    half = value("CIDEr", ["red pub", "blue pub"], references)
    assert half == pytest.approx((10 * (1 / 2) / 4 + 5) / 2)
    # A word said twice counts once in the product, twice in the length of its vector.
    twice = value("CIDEr", ["red red", "blue pub"], references)
    assert twice == pytest.approx((10 / (2 * np.sqrt(2)) / 4 + 5) / 2)


def test_cider_falls_with_the_difference_in_pairs_of_words() -> None:
    # Four times the same word points where the word does; 0 and 3 pairs.
    rows = statistics(["red", "blue"], [["red red red red"], ["blue"]], ["CIDEr"])["CIDEr"]
    assert rows[0, 0] == pytest.approx(10 * 1 / 4 * np.exp(-(3**2) / (2 * 6**2)))


@needs_coco
def test_rouge_and_cider_equal_those_of_pycocoevalcap() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    given = {
        i: [" ".join(ptb.tokenize(text)) for text in texts] for i, texts in enumerate(REFERENCES)
    }
    outputs = {i: [" ".join(ptb.tokenize(text))] for i, text in enumerate(OUTPUTS)}
    rows = statistics(OUTPUTS, REFERENCES, ["ROUGE_L", "CIDEr"])
    for metric, scorer in (("ROUGE_L", rouge), ("CIDEr", cider)):
        np.testing.assert_allclose(rows[metric][:, 0], scorer.compute_score(given, outputs)[1])


PAIRS = [
    ("the cat sat on the mat", ["the cat sat on the mat"], 1.0),
    ("a cat sat on mats", ["the cat sat on the mat", "cats sit"], 0.30620130300481274),
    ("", ["the cat"], 0.0),
    ("cafe", ["café"], 0.6),
    ("dog", ["cat"], 0.0),
    ("the restaurant is cheap and good", ["the eatery has low prices and it is good"], 0.3299358),
    ("cat the sat", ["the cat sat"], 0.4),
]
# What the program counts in them: words, function words, matches by kind, chunks and matches, with
# no chunk where one is all of both texts.
COUNTS = [
    [6, 6, 3, 3, 3, 3, 3, 3, *[0] * 12, 0, 6, 6],
    [5, 6, 2, 3, 2, 2, 1, 1, *[0] * 12, 1, 3, 3],
    [0, 2, 0, 1, *[0] * 19],
    [1, 1, *[0] * 14, 1, 1, 0, 0, 0, 1, 1],
    [1, 1, *[0] * 21],
    [6, 9, 3, 5, 1, 1, 3, 3, 0, 0, 0, 0, 1, 1, 0, 0, 1, 2, 0, 0, 4, 6, 7],
    [3, 3, 1, 1, 2, 2, 1, 1, *[0] * 12, 3, 3, 3],
]


def test_meteor_of_counts_is_the_programs_own() -> None:
    counts = np.array(COUNTS, dtype=float)
    expected = [value for _, _, value in PAIRS]
    np.testing.assert_allclose(from_statistics("METEOR", counts[:, None]), expected, atol=1e-6)
    assert from_statistics("METEOR", counts) == pytest.approx(0.34865124128818187)


def test_meteor_is_the_published_formula() -> None:
    # Two content words of two and three, in two pieces.
    row = np.zeros(len(COLUMNS["METEOR"]))
    row[[0, 1, 4, 5, 20, 21, 22]] = 2, 3, 2, 2, 2, 2, 2
    mean = 1 * (2 / 3) / (0.85 * 1 + 0.15 * 2 / 3)
    assert meteor.score(row) == pytest.approx(mean * (1 - 0.6 * (2 / 2) ** 0.2))


@pytest.mark.slow
@needs_java
def test_the_program_counts_what_is_written_here() -> None:
    outputs, references = [a.split() for a, _, _ in PAIRS], [[b.split()] for _, (b, *_), _ in PAIRS]
    references[1].append(["cats", "sit"])
    np.testing.assert_array_equal(meteor.statistics(outputs, references), COUNTS)


def test_without_java_meteor_is_missing_and_never_another_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = score(OUTPUTS, REFERENCES)
    assert found["METEOR"] is None
    assert list(found) == ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"]
    assert all(found[metric] is not None for metric in QUICK)
    assert str(meteor.missing()).startswith("METEOR is left out: it needs")


def test_a_program_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meteor, "program", lambda: tmp_path / "none.jar")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    with pytest.raises(OSError, match=r"METEOR's program failed: .*none\.jar"):
        meteor.statistics([["a"]], [[["a"]]])


@pytest.mark.parametrize("metric", QUICK)
def test_the_order_of_references_changes_nothing(metric: str) -> None:
    turned = [texts[::-1] for texts in REFERENCES]
    expected = value(metric, OUTPUTS, REFERENCES)
    assert value(metric, OUTPUTS, turned) == pytest.approx(expected)


@pytest.mark.parametrize("metric", QUICK)
def test_the_order_of_examples_changes_nothing(metric: str) -> None:
    expected = value(metric, OUTPUTS, REFERENCES)
    assert value(metric, OUTPUTS[::-1], REFERENCES[::-1]) == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "most"), [("BLEU", 1.0), ("ROUGE_L", 1.0), ("CIDEr", 10.0)])
def test_a_reference_as_output_has_the_highest_score(metric: str, most: float) -> None:
    texts = ["The Lantern serves soup by the mill", "A quiet bar near Zuma's"]
    assert value(metric, texts, [[text] for text in texts]) == pytest.approx(most)


def test_no_output_beats_the_references_in_nist() -> None:
    own = value("NIST", [texts[0] for texts in REFERENCES], REFERENCES)
    assert own > value("NIST", OUTPUTS, REFERENCES)


def test_a_further_reference_never_takes_a_match_away() -> None:
    plain = statistics(OUTPUTS, REFERENCES, ["BLEU", "ROUGE_L"])
    more = [[*texts, "Green apples fall"] for texts in REFERENCES]
    found = statistics(OUTPUTS, more, ["BLEU", "ROUGE_L"])
    assert np.all(found["BLEU"][:, :4] >= plain["BLEU"][:, :4])
    assert np.all(found["ROUGE_L"] >= plain["ROUGE_L"])


@pytest.mark.parametrize("metric", QUICK)
def test_worse_outputs_score_less(metric: str) -> None:
    texts = [texts[0] for texts in REFERENCES]
    broken = [" ".join(text.split()[::2]) for text in texts]
    values = [value(metric, given, REFERENCES) for given in (texts, broken, [""] * len(texts))]
    assert all(better > worse for better, worse in pairwise(values))
    assert values[-1] == 0.0


@pytest.mark.parametrize("metric", QUICK)
def test_any_text_has_a_finite_score(metric: str) -> None:
    odd = ["", ".", "\u00a0", "x" * 5000, "the " * 3000, "\U0001f600", "<b", "& \ufffd \u2028 \x07"]
    found = statistics(odd, [["A bar near the mill."]] * len(odd), [metric])[metric]
    assert np.isfinite(found).all()
    assert np.isfinite(from_statistics(metric, found[:, None])).all()


def test_rows_have_the_columns_that_are_told() -> None:
    found = statistics(OUTPUTS, REFERENCES, QUICK)
    for metric, rows in found.items():
        assert rows.shape == (len(OUTPUTS), len(COLUMNS[metric]))
    words = [len(mteval.tokenize(text)) for text in OUTPUTS]
    for metric in ("BLEU", "NIST"):
        np.testing.assert_array_equal(found[metric][:, COLUMNS[metric].index("grams_1")], words)


def test_resampled_rows_score_as_the_resampled_texts() -> None:
    indices = np.random.default_rng(0).integers(len(OUTPUTS), size=(20, len(OUTPUTS)))
    rows = statistics(OUTPUTS, REFERENCES, QUICK)
    for metric in ("BLEU", "ROUGE_L"):
        expected = [
            value(metric, [OUTPUTS[i] for i in drawn], [REFERENCES[i] for i in drawn])
            for drawn in indices
        ]
        np.testing.assert_allclose(from_statistics(metric, rows[metric][indices]), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_whole_set_drawn_twice_scores_as_once(metric: str) -> None:
    rows = (
        np.array(COUNTS, dtype=float)
        if metric == "METEOR"
        else statistics(OUTPUTS, REFERENCES, [metric])[metric]
    )
    single = from_statistics(metric, rows)
    twice = from_statistics(metric, np.concatenate([rows, rows])[None])
    if metric == "BLEU":
        # The words and their matches double, and with them what smoothing leaves alone.
        assert np.all(rows.sum(axis=0)[:4] > 0)
    np.testing.assert_allclose(twice, [single])


@pytest.mark.parametrize("metric", QUICK)
def test_rows_one_by_one_are_the_scores_of_examples(metric: str) -> None:
    rows = statistics(OUTPUTS, REFERENCES, [metric])[metric]
    found = from_statistics(metric, rows[:, None])
    assert found.shape == (len(OUTPUTS),)
    assert found[-1] == 0.0
    if metric == "BLEU":
        assert found[0] == pytest.approx(value(metric, OUTPUTS[:1], REFERENCES[:1]))


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="got 6 and 5"):
        score(OUTPUTS, REFERENCES[:-1])
    with pytest.raises(ValueError, match="one at least, got 0 and 0"):
        score([], [])
    for wrong in ([], ["  "], "a bar"):
        with pytest.raises(ValueError, match="Example 1 needs a list of references"):
            score(["a", "b"], [["a"], wrong])
    with pytest.raises(ValueError, match=r"metric must be one of .* got .ROUGE"):
        score(["a"], [["a"]], ["ROUGE"])


def test_references_are_grouped_in_the_order_of_the_file() -> None:
    mrs = ["name[B]", "name[A]", "name[B]"]
    assert group(mrs, ["x", "y", "z"]) == {"name[B]": ["x", "z"], "name[A]": ["y"]}
    assert list(group(mrs, ["x", "y", "z"])) == ["name[B]", "name[A]"]


def test_outputs_come_back_as_they_were_written(tmp_path: Path) -> None:
    mrs = ["name[A, B], food[x]", 'name["C"]', "name[D]"]
    outputs = ['A "quiet" bar\tby the mill', "", "Zuma's, £20"]
    write_outputs(tmp_path / "out.tsv", mrs, outputs)
    assert read_outputs(tmp_path / "out.tsv") == (mrs, ['A "quiet" bar by the mill', *outputs[1:]])


def test_a_plain_file_has_one_output_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("a bar\n\n the mill \n")
    assert read_outputs(tmp_path / "out.txt") == (["", "", ""], ["a bar", "", "the mill"])


def test_every_line_of_outputs_has_two_columns_as_the_scorer_splits_it(tmp_path: Path) -> None:
    outputs = ["", "two\nlines", "form\x0cfeed", "para\u2029graph", " x "]
    write_outputs(tmp_path / "out.tsv", ["name[A]"] * 5, outputs)
    # The scorer cuts at every kind of line break and strips what it gets.
    lines = (tmp_path / "out.tsv").read_bytes().decode().splitlines()
    rows = list(csv.reader([line.strip() for line in lines], delimiter="\t"))
    expected = ["", "two lines", "form feed", "para graph", "x"]
    assert rows == [["MR", "output"], *(["name[A]", text] for text in expected)]


@pytest.mark.parametrize("text", ["", "a\tb\nx\ty", "mr\tmrs\tref\n"])
def test_a_file_without_the_two_columns_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "out.tsv").write_text(text)
    with pytest.raises(ValueError, match="must name a column of meaning representations"):
        read_outputs(tmp_path / "out.tsv")


def test_a_row_with_a_column_too_few_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.tsv").write_text("MR\toutput\nname[A]\tx\nname[B]\n")
    with pytest.raises(ValueError, match=r"Row 3 .* has 1 columns, not 2"):
        read_outputs(tmp_path / "out.tsv")


def test_pounds_and_accents_are_mended_as_the_scorer_does() -> None:
    assert repair_text(" caf\u00c3\u00a9  \u00c2\u00a320 \u014120\n") == "café £20 £20"


@pytest.fixture(scope="module")
def official() -> dict[str, dict[str, float]]:
    return json.loads((E2E / "system_outputs" / "official_scores.json").read_text())


@pytest.fixture(scope="module")
def given() -> dict[str, list[str]]:
    return group(*read_outputs(E2E / "testset_w_refs.csv"))


@needs_data
def test_the_real_references_belong_to_630_and_547_examples(given: dict[str, list[str]]) -> None:
    assert len(given) == 630
    assert sum(map(len, given.values())) == 4693
    dev = group(*read_outputs(E2E / "devset.csv"))
    assert (len(dev), sum(map(len, dev.values()))) == (547, 4672)


@needs_data
def test_four_systems_score_as_officially(
    official: dict[str, dict[str, float]], given: dict[str, list[str]]
) -> None:
    for system, expected in official.items():
        mrs, outputs = read_outputs(E2E / "system_outputs" / system)
        found = score(outputs, [given[mr] for mr in mrs], QUICK)
        assert found == pytest.approx({metric: expected[metric] for metric in QUICK}, abs=1e-4)


@pytest.mark.slow
@needs_data
@needs_java
def test_a_system_with_many_outputs_equal_to_a_reference_scores_as_officially_in_meteor(
    official: dict[str, dict[str, float]], given: dict[str, list[str]]
) -> None:
    mrs, outputs = read_outputs(E2E / "system_outputs" / "zhang.tsv")
    found = score(outputs, [given[mr] for mr in mrs], ["METEOR"])
    assert found == pytest.approx({"METEOR": official["zhang.tsv"]["METEOR"]}, abs=1e-4)
