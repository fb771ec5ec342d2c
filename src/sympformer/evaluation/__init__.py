"""What a trained model knows: of any text, by document and position, in pairs, of last words."""

from sympformer.evaluation.against import Difference, compare_texts
from sympformer.evaluation.classes import token_classes
from sympformer.evaluation.last_word import LastWord, last_words, read_passages
from sympformer.evaluation.pairs import Pair, PairScores, minimal_pairs, read_pairs
from sympformer.evaluation.scoring import Scored, score
from sympformer.evaluation.text import TextScores, score_text

__all__ = [
    "Difference",
    "LastWord",
    "Pair",
    "PairScores",
    "Scored",
    "TextScores",
    "compare_texts",
    "last_words",
    "minimal_pairs",
    "read_pairs",
    "read_passages",
    "score",
    "score_text",
    "token_classes",
]
