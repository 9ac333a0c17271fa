"""The tokenizers, byte-level pairs for CLIP and Qwen and pieces for T5, built from a list of words without training.

Each word of the grammar is one token. Other text becomes common English words, fragments of words, and finally single
bytes (CLIP, Qwen) or characters (T5; characters beyond Latin-1 are unknown tokens, as in the real T5).
"""

import re

from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, STYLES

CLIP_LENGTH = 77
T5_LENGTH = 20  # the longest sentence of the grammar has 16 tokens
CHAT_TEMPLATE = (  # of QwenImagePipeline
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHAT_HEAD_LENGTH = 34  # tokens before the prompt, which QwenImagePipeline leaves out of the features by this number
CHAT_TAIL_LENGTH = 5  # tokens after the prompt
CHAT_LENGTH = 20  # tokens after the head: the longest sentence of the grammar has 15
_CHAT_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SMALL_WORDS = (" ".join(RELATIONS) + " a on the left right at top bottom in center background").split()
GRAMMAR_WORDS = list(dict.fromkeys([*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS, *STYLES, *_SMALL_WORDS]))
_ENGLISH = """
    of and to is with an for by from as it its his her their this that one two three four many some very not no into
    over under behind front next near between inside outside around through up down out off photo photograph picture
    image painting drawing illustration portrait art style artist digital concept render sketch cartoon anime comic
    poster logo oil watercolor pencil ink color colour colorful dark light bright lighting shadow shadows soft sharp
    detailed highly quality realistic cinematic dramatic beautiful cute epic fantasy scene view close wide angle full
    body face eyes hair hand hands head man woman girl boy child people person king queen cat dog horse bird fish bear
    lion tiger dragon robot animal car train boat ship plane bicycle street city town house building castle room
    kitchen table chair window door wall floor tree trees forest flower flowers garden mountain mountains river lake
    sea ocean beach water sky cloud clouds sun sunset moon star stars night day snow rain fire world space planet
    earth old young new big huge tiny long short tall round square gold golden silver orange pink brown grey violet
    wood wooden glass metal stone paper wearing holding sitting standing walking running riding flying playing eating
    looking made shaped sign text word words book food pizza cake apple banana fruit bowl plate cup bottle hat dress
    shirt suit armor sword shape shapes object objects plain clean smooth rough grain outline shading noise matte
    glossy blurry
"""
COMMON_WORDS = _ENGLISH.split()
_WORD_FRAGMENTS = (
    "er ing ed es ly al en on an in re th st ch sh ar or le ti te nd nt ent tion ous able ful ness ment ist"
)
FRAGMENTS = _WORD_FRAGMENTS.split()


def build_clip_tokenizer() -> CLIPTokenizer:
    """Build byte-pair merges that turn each listed word into one token.

    The start and end tokens are last, as in CLIP, so that both ways in which CLIPTextModel finds the end token agree.
    """
    alphabet = list(bytes_to_unicode().values())
    merges: list[tuple[str, str]] = []
    for fragment in FRAGMENTS:  # inside or at the beginning of a word
        _add_merges(list(fragment), merges)
    for word in [*FRAGMENTS, *GRAMMAR_WORDS, *COMMON_WORDS]:
        _add_merges([*word[:-1], word[-1] + "</w>"], merges)
    pieces = [*alphabet, *(piece + "</w>" for piece in alphabet), *("".join(pair) for pair in merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def _add_merges(symbols: list[str], merges: list[tuple[str, str]]) -> None:
    """Append the merges that are needed to make one token of `symbols` after the existing merges."""
    for pair in list(merges):
        index = 0
        while index < len(symbols) - 1:
            if (symbols[index], symbols[index + 1]) == pair:
                symbols[index : index + 2] = ["".join(pair)]
            index += 1
    while len(symbols) > 1:
        merges.append((symbols[0], symbols[1]))
        symbols[:2] = [symbols[0] + symbols[1]]


def build_qwen_tokenizer() -> Qwen2Tokenizer:
    """Build byte-pair merges that turn each listed word, with or without a blank before it, into one token.

    The words of the chat template are listed too. So the prompt begins after as many tokens as with the real tokenizer.
    """
    alphabet = list(bytes_to_unicode().values())
    blank = bytes_to_unicode()[ord(" ")]
    merges: list[tuple[str, str]] = []
    for fragment in FRAGMENTS:
        _add_merges(list(fragment), merges)
    for word in dict.fromkeys([*GRAMMAR_WORDS, *COMMON_WORDS, *re.findall("[A-Za-z]+", CHAT_TEMPLATE)]):
        _add_merges(list(word), merges)
        _add_merges([blank, *word], merges)
    pieces = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges), *_CHAT_MARKS])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=131_072)
    tokenizer.add_tokens(list(_CHAT_MARKS), special_tokens=True)  # or they would be read letter by letter
    return tokenizer


def build_t5_tokenizer() -> T5Tokenizer:
    """Build a unigram vocabulary in which a listed word always has a better score than its pieces."""
    characters = [chr(code) for code in [*range(0x21, 0x7F), *range(0xA1, 0x100)]]
    words = list(dict.fromkeys([*GRAMMAR_WORDS, *COMMON_WORDS]))
    capitals = [word.capitalize() for word in words if len(word) > 1]  # T5 tells case apart
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -4.0}
    scores |= {f"▁{word}": -5.0 for word in words} | {f"▁{word}": -6.0 for word in capitals}
    scores |= dict.fromkeys(FRAGMENTS, -7.0) | dict.fromkeys(characters, -6.0)
    return T5Tokenizer(vocab=list(scores.items()), extra_ids=0, model_max_length=T5_LENGTH)


def build_wordpiece_vocabulary() -> list[str]:
    """Return the vocabulary of BLIP's WordPiece in the order of the ids: padding first, then words, then characters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    inside = [f"##{character}" for character in characters if character.isalnum()]
    return list(dict.fromkeys([*special, *GRAMMAR_WORDS, *COMMON_WORDS, *characters, *inside]))
